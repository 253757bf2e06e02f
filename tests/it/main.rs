mod localising;

fn main() {}
