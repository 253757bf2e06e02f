#!/usr/bin/env python3
"""Reception compared in one run: medlsamd, dcmtk storescp, Orthanc, pynetdicom.

Usage: benches/reception.py --slice FILE [--images 500] [--rounds 3] [--only NAME,…] [--default] [--soak N]

Needs `cargo build --release --benches`, the set-up (`make setup`) and the peers (`make peers`). Every receiver takes the same series,
made of one 512 × 512 slice by `benches/load.rs`; rounds are interleaved, so that a load of the machine meets all of them. CPU is user
and system time of the receiver and its children from /proc, memory the sum of their resident sets sampled every 20 ms, synced
writes are counted by strace in a run of its own. Prints a Markdown table of the best and the median of the rounds.
"""
import argparse
import atexit
import json
import os
import re
import resource
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RELEASE = Path(os.environ.get("RECEPTION_BUILD", ROOT / "target/release"))
TICKS = os.sysconf("SC_CLK_TCK")
NODELAY = {"TCP_NODELAY": "1"}


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def bench_binary():
    found = [p for p in (RELEASE / "deps").glob("load-*") if os.access(p, os.X_OK) and not p.suffix]
    if not found:
        sys.exit("no load sender: cargo build --release --benches")
    return max(found, key=lambda p: p.stat().st_mtime)


class Receiver:
    """A receiver's command line, in a folder of its own that is emptied after each round."""

    def __init__(self, default):
        self.default = default  # as the vendor ships it, Nagle included
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="reception-", dir=os.environ.get("RECEPTION_DIR")))

    def environment(self):
        return {} if self.default else NODELAY


class Medlsamd(Receiver):
    name, title = "medlsamd", "MEDLSAM"

    def command(self):
        cache = ROOT / ".cache"
        (self.folder / "medlsamd.toml").write_text(
            f"""[dicom]
listen = "127.0.0.1:{self.port}"
[storage]
dir = "storage"
min_free_gb = 0.1
[web]
listen = ""
[inference]
library = "{cache}/onnxruntime/libonnxruntime.so"
providers = ["cpu"]
[models]
dir = "{ROOT}/models"
weights_dir = "{cache}/weights"
[[peer]]
ae_title = "any"
host = "any"
may = ["store"]
[[protocol]]
name = "none"
match = {{ Modality = "NONE" }}
structures = ["all"]
[log]
level = "warn"
""")
        return [str(RELEASE / "medlsamd"), "serve", "--config", str(self.folder / "medlsamd.toml")]

    def empty(self):
        for series in (self.folder / "storage/series").glob("*/*"):
            shutil.rmtree(series)


class Storescp(Receiver):
    name, title = "dcmtk storescp", "STORESCP"

    def command(self):
        tuned = [] if self.default else ["-pdu", "131072", "--fork"]
        (self.folder / "in").mkdir()
        return ["/usr/bin/storescp", *tuned, "-od", str(self.folder / "in"), str(self.port)]

    def empty(self):
        shutil.rmtree(self.folder / "in")
        (self.folder / "in").mkdir()


class Orthanc(Receiver):
    name, title = "Orthanc", "ORTHANC"

    def command(self):
        self.http = free_port()
        settings = {
            "StorageDirectory": str(self.folder / "db"), "IndexDirectory": str(self.folder / "db"), "DicomPort": self.port,
            "HttpPort": self.http, "DicomAet": "ORTHANC", "RemoteAccessAllowed": False, "AuthenticationEnabled": False,
            "DicomAlwaysAllowStore": True,
        }
        if not self.default:
            settings["MaximumPduLength"] = 131072
        (self.folder / "orthanc.json").write_text(json.dumps(settings))
        return [shutil.which("Orthanc") or "/usr/sbin/Orthanc", str(self.folder / "orthanc.json")]

    def empty(self):
        import urllib.request
        base = f"http://127.0.0.1:{self.http}"
        for patient in json.load(urllib.request.urlopen(f"{base}/patients")):
            urllib.request.urlopen(urllib.request.Request(f"{base}/patients/{patient}", method="DELETE"))


class Pynetdicom(Receiver):
    name, title = "pynetdicom", "STORESCP"

    def command(self):
        tuned = [] if self.default else ["--max-pdu", "131072"]
        (self.folder / "in").mkdir()
        python = os.environ.get("MEDLSAMD_PYTHON", str(ROOT / ".venv/bin/python"))
        return [python, "-m", "pynetdicom", "storescp", str(self.port), *tuned, "-od", str(self.folder / "in"), "-q"]

    def empty(self):
        shutil.rmtree(self.folder / "in")
        (self.folder / "in").mkdir()


RECEIVERS = [Medlsamd, Storescp, Orthanc, Pynetdicom]


def family(pid):
    """A process and its descendants."""
    found = [pid]
    for process in found:
        try:
            for task in Path(f"/proc/{process}/task").iterdir():
                found += [int(child) for child in (task / "children").read_text().split()]
        except (FileNotFoundError, ProcessLookupError):
            pass
    return found


def cpu_seconds(pid):
    """User and system time of a process, its living children and those it has waited for."""
    ticks = 0
    for number, process in enumerate(family(pid)):
        try:
            fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        ticks += int(fields[11]) + int(fields[12]) + (int(fields[13]) + int(fields[14]) if number == 0 else 0)
    return ticks / TICKS


def resident_mib(pid):
    kib = 0
    for process in family(pid):
        try:
            found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{process}/status").read_text())
            kib += int(found[1]) if found else 0
        except (FileNotFoundError, ProcessLookupError):
            pass
    return kib / 1024


class Running:
    def __init__(self, kind, default, prefix=()):
        self.receiver = kind(default)
        environment = {k: v for k, v in os.environ.items() if k != "TCP_NODELAY"} | self.receiver.environment()
        self.process = subprocess.Popen(
            [*prefix, *self.receiver.command()], env=environment, stdout=subprocess.DEVNULL,
            stderr=open(self.receiver.folder / "log", "w"), cwd=self.receiver.folder)
        deadline = time.time() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.receiver.port), 1).close()
                break
            except OSError:
                if time.time() > deadline or self.process.poll() is not None:
                    sys.exit(f"{kind.name} does not start: {(self.receiver.folder / 'log').read_text()[-2000:]}")
                time.sleep(0.1)
        time.sleep(1)
        self.pid = self.process.pid if not prefix else family(self.process.pid)[-1]
        self.idle_mib = resident_mib(self.pid)

    def stop(self):
        os.kill(self.pid, signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.receiver.folder, ignore_errors=True)


def send(running, slice_file, images, associations, nagle):
    """One run of the sender; what it took."""
    receiver = running.receiver
    before, peak, ended = cpu_seconds(running.pid), [0.0], threading.Event()

    def watch():
        while not ended.wait(0.02):
            peak[0] = max(peak[0], resident_mib(running.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    command = [str(bench_binary()), "send", f"{receiver.title}@127.0.0.1:{receiver.port}", "--slice", slice_file,
               "--images", str(images), "--associations", str(associations), *(["--nagle"] if nagle else [])]
    done = subprocess.run(command, capture_output=True, text=True)
    time.sleep(0.3)  # forked children are waited for, rows are committed
    ended.set()
    watcher.join()
    if done.returncode:
        raise RuntimeError(f"{receiver.name}: {done.stderr[:500]}")
    said = json.loads(done.stdout)
    said["cpu_ms"] = 1000 * (cpu_seconds(running.pid) - before) / said["images"]
    said["peak_mib"], said["idle_mib"] = peak[0], running.idle_mib
    receiver.empty()
    return said


def bare_files(slice_file, images, threads):
    """No network: files made durable one after the other, which bounds whoever answers only when an object is safe."""
    folder = tempfile.mkdtemp(prefix="reception-", dir=os.environ.get("RECEPTION_DIR"))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([str(bench_binary()), "files", folder, "--slice", slice_file, "--images", str(images),
                           "--associations", str(threads)], capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    shutil.rmtree(folder)
    said = json.loads(done.stdout)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return said | {"cpu_ms": 1000 * seconds / said["images"], "peak_mib": 0, "idle_mib": 0}


def synced_writes(kind, slice_file, images):
    """Calls that make data durable, per image."""
    with tempfile.NamedTemporaryFile() as counts:
        calls = "trace=fsync,fdatasync,sync,syncfs,sync_file_range,msync"
        running = Running(kind, False, ("strace", "-f", "--seccomp-bpf", "-c", "-q", "-o", counts.name, "-e", calls))
        try:
            send(running, slice_file, images, 1, False)
        finally:
            running.stop()
        total = 0
        for line in Path(counts.name).read_text().splitlines():
            words = line.split()
            if words and words[-1] in ("fsync", "fdatasync", "sync", "syncfs", "msync", "sync_file_range"):
                total += int(words[3])
        return total / images


def table(title, rows):
    print(f"\n{title}\n")
    print("| receiver | senders | images/s best (median) | CPU ms/image | memory idle → peak MiB | synced writes/image |")
    print("|---|---|---|---|---|---|")
    for name, senders, runs, synced in rows:
        rates = [r["images_per_s"] for r in runs]
        cpu = min(r["cpu_ms"] for r in runs)
        peak = max(r["peak_mib"] for r in runs)
        print(f"| {name} | {senders} | {max(rates):.0f} ({statistics.median(rates):.0f}) | {cpu:.2f} "
              f"| {runs[0]['idle_mib']:.0f} → {peak:.0f} | {synced} |")
    sys.stdout.flush()


def compare(kinds, args, default):
    senders = [1] if default else [1, 4]
    images = args.images // 5 if default else args.images
    running = {kind: Running(kind, default) for kind in kinds}
    runs = {(kind, n): [] for kind in [*kinds, "files"] for n in senders}
    try:
        for _ in range(1 if default else args.rounds):
            for n in senders:
                for kind in kinds:
                    runs[kind, n].append(send(running[kind], args.slice, images, n, default))
                runs["files", n].append(bare_files(args.slice, images, n))
    finally:
        for one in running.values():
            one.stop()
    synced = {kind: "" if default else f"{synced_writes(kind, args.slice, 100):.2f}" for kind in kinds}
    title = "Default settings, a sender with Nagle's algorithm" if default else "All with TCP_NODELAY and PDUs of 128 KiB"
    table(f"{title}: {images} images for each sender, load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores",
          [(kind.name, n, runs[kind, n], synced[kind]) for kind in kinds for n in senders]
          + [("bare files, synced, no network", n, runs["files", n], "1") for n in senders])


def soak(args):
    """Memory of our daemon over many images, the files taken away again."""
    running = Running(Medlsamd, False)
    try:
        taken = 0
        while taken < args.soak:
            said = send(running, args.slice, 250, 4, False)
            taken += said["images"]
            print(f"{taken} images, {said['images_per_s']:.0f}/s, idle {said['idle_mib']:.0f} MiB, "
                  f"now {resident_mib(running.pid):.1f}, peak {said['peak_mib']:.1f}", flush=True)
    finally:
        running.stop()


def unpacked(path):
    """The slice itself, or one from the middle of a zipped series."""
    if not path.endswith(".zip"):
        return path
    folder = tempfile.mkdtemp(prefix="reception-slice-")
    atexit.register(shutil.rmtree, folder, True)
    with zipfile.ZipFile(path) as archive:
        names = sorted(name for name in archive.namelist() if not name.endswith("/"))
        return archive.extract(names[len(names) // 2], folder)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slice", required=True)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="")
    parser.add_argument("--default", action="store_true", help="the table of default settings instead")
    parser.add_argument("--soak", type=int, default=0, metavar="N")
    args = parser.parse_args()
    args.slice = unpacked(os.path.abspath(args.slice))
    unknown = set(filter(None, args.only.split(","))) - {kind.name for kind in RECEIVERS}
    if unknown:
        parser.error(f"no receiver is called {', '.join(unknown)}")
    kinds = [kind for kind in RECEIVERS if not args.only or kind.name in args.only.split(",")]
    if args.soak:
        soak(args)
    else:
        compare(kinds, args, args.default)


if __name__ == "__main__":
    main()
