fn main() -> std::process::ExitCode {
    medlsamd::cli::main()
}
