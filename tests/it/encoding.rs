//! Measurements, not promises: size, seconds and memory of segmentations beside highdicom on the same masks, and how true contours
//! are beside rt-utils. `cargo test --release -- --ignored --nocapture beside` prints the tables.

use crate::labelmaps::many;
use crate::support::data;
use crate::support::peers::python;
use crate::support::written::{POSES, run, series_of, stack, text, with_source};
use medlsamd::mask::Mask;
use medlsamd::results::style::{Holes, Style};
use medlsamd::results::{self, dump};
use medlsamd::series::Series;
use medlsamd::structure::{STRUCTURES, Structure};
use ndarray::Array3;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

/// Ten structures nested in each other on 400 of 500 slices: 4,000 frames, each with much to pack.
fn nested() -> Vec<Mask> {
    let radius = |n: usize| 40.0 + 6.0 * n as f64;
    let shell = |(n, structure)| {
        let voxels = Array3::from_shape_fn((400, 256, 256), |(k, j, i)| {
            let z = (k as f64 - 200.0) / 200.5;
            let at = (j as f64 - 128.0).hypot(i as f64 - 128.0) / (1.0 - 0.5 * z * z);
            at < radius(n) && (n == 0 || at >= radius(n - 1))
        });
        Mask::from_block(structure, [100, 130, 40], voxels.view()).expect("voxels")
    };
    many(10).into_iter().enumerate().map(shell).collect()
}

/// A hundred and four compact organs side by side, some 35 slices each.
fn compact() -> Vec<Mask> {
    let organ = |(n, structure): (usize, &'static Structure)| {
        let (half, radius) = (8 + n * 7 % 20, 14.0 + (n * 5 % 9) as f64);
        let centre = [
            64 + 48 * (n % 9),
            80 + 48 * (n / 9 % 7),
            29 + 10 * (n % 5) + 100 * (n / 63),
        ];
        let voxels = Array3::from_shape_fn((2 * half, 46, 46), |(k, j, i)| {
            let z = (k as f64 + 0.5) / half as f64 - 1.0;
            (j as f64 - 22.5).hypot(i as f64 - 22.5) < radius * (1.0 - z * z).sqrt()
        });
        let offset = [centre[0] - 23, centre[1] - 23, centre[2] - half.min(centre[2])];
        Mask::from_block(structure, offset, voxels.view()).expect("voxels")
    };
    many(104).into_iter().enumerate().map(organ).collect()
}

/// Megabytes of a field of this process's status.
fn memory(field: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|line| line.starts_with(field)).expect("a field");
    let kilobytes: f64 = line
        .split_whitespace()
        .nth(1)
        .expect("a number")
        .parse()
        .expect("a number");
    kilobytes / 1e3
}

/// Seconds this thread has had a processor, which other work on the machine does not lengthen.
fn processor() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux");
    let nanoseconds: f64 = stat.split(' ').next().expect("a field").parse().expect("a number");
    nanoseconds / 1e9
}

/// Writes an object three times and prints the best time, the peak over what stood before, and the file's own seconds.
fn measure(series: &Series, masks: &[Mask], kind: &str, style: &Style, label: &str) {
    let kind = results::kind(kind).expect("a kind");
    with_source(series, masks, "measured", (results::GENERIC, style), |source| {
        let mut best = [f64::MAX; 2];
        let (mut peak, mut line) = (0.0f64, String::new());
        for _ in 0..3 {
            // Memory that earlier objects left with the allocator would pass for ours.
            // SAFETY: it only gives free memory back.
            unsafe { libc::malloc_trim(0) };
            std::fs::write("/proc/self/clear_refs", "5").expect("Linux");
            let before = memory("VmRSS");
            let (begin, begin_processor) = (Instant::now(), processor());
            let object = (kind.write)(source).expect("an object");
            let took = [begin.elapsed().as_secs_f64(), processor() - begin_processor];
            best = [0, 1].map(|n| best[n].min(took[n]));
            // Later turns find the memory of the first at hand.
            peak = peak.max(memory("VmHWM") - before);
            let begin = Instant::now();
            let file = tempfile::NamedTempFile::new().expect("a file");
            std::fs::write(file.path(), &object.part10).expect("written");
            let megabytes = object.part10.len() as f64 / 1e6;
            line = format!(
                "file {:.2} s, {megabytes:.1} MB, peak {peak:.0} MB with the object",
                begin.elapsed().as_secs_f64()
            );
        }
        eprintln!(
            "ours       {label:13} {:.3} s, processor {:.3} s, {line}",
            best[0], best[1]
        );
    });
}

#[test]
#[ignore = "a measurement"]
fn segmentations_beside_highdicoms() {
    for (name, slices, masks) in [("104 × 200", 200, compact()), ("10 × 500", 500, nested())] {
        let ct = tempfile::tempdir().expect("a folder");
        let series = stack(ct.path(), &POSES[0], [512, 512, slices]);
        let frames: usize = masks.iter().map(|mask| mask.slices().count()).sum();
        eprintln!("{name}: {frames} frames that hold voxels");
        let native = Style {
            rle: false,
            ..Style::default()
        };
        measure(&series, &masks, "seg", &native, "BINARY");
        measure(&series, &masks, "labelmap", &native, "LABELMAP");
        measure(&series, &masks, "labelmap", &Style::default(), "LABELMAP_RLE");
        let Some(python) = python() else { continue };
        let folder = tempfile::tempdir().expect("a folder");
        let dumped = folder.path().join("masks");
        std::fs::write(&dumped, dump::dump(&series, &masks)).expect("written");
        for encoding in ["BINARY", "LABELMAP", "LABELMAP_RLE"] {
            let mut command = Command::new(&python);
            command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/judge/seg_bench.py"));
            let output = run(command.arg(ct.path()).arg(&dumped).arg(encoding));
            assert!(output.status.success(), "{}", text(&output.stderr));
            eprint!("highdicom  {encoding:13} {}", text(&output.stdout));
        }
    }
}

/// Organs as large as they are, in millimetres, around the middle of a real series.
fn organs(series: &Series) -> Vec<Mask> {
    let (spacing, shape) = (series.grid.spacing_mm, series.grid.shape());
    let middle = [shape.2, shape.1, shape.0].map(|count| (count / 2) as f64 + 0.2);
    // Millimetres from the middle of the series.
    let at = |k: usize, j: usize, i: usize, axis: usize| ([i, j, k][axis] as f64 - middle[axis]) * spacing[axis];
    type Inside = Box<dyn Fn(f64, f64, f64) -> bool>;
    let ball = |a: f64, b: f64, c: f64| -> Inside {
        Box::new(move |x, y, z| (x / a).powi(2) + (y / b).powi(2) + (z / c).powi(2) < 1.0)
    };
    let islands: Inside = Box::new(|x, y, z| (x.abs() - 15.0).hypot(y) < 9.0 && z.abs() < 15.0);
    let step = spacing.map(|mm| 0.5 * mm);
    let voxel: Inside = Box::new(move |x, y, z| [x, y, z].iter().zip(step).all(|(v, half)| v.abs() < half));
    let shapes: [(&str, Inside); 7] = [
        ("heart", ball(55.0, 45.0, 50.0)),
        ("parotid", ball(11.0, 17.0, 22.0)),
        ("lens", ball(4.6, 4.6, 4.0)),
        ("optic_nerve", ball(2.2, 2.2, 30.0)),
        (
            "ring",
            Box::new(|x, y, z| (12.0..20.0).contains(&x.hypot(y)) && z.abs() < 15.0),
        ),
        ("two_islands", islands),
        ("one_voxel", voxel),
    ];
    let mask = |((name, inside), row): ((&'static str, Inside), &'static Structure)| {
        let named: &'static Structure = Box::leak(Box::new(Structure {
            name,
            roi_name: name,
            category: row.category,
            kind: row.kind,
            laterality: row.laterality,
            role: row.role,
            colour: row.colour,
            window: row.window,
            pieces: row.pieces,
            linking: row.linking,
        }));
        let inside = |(k, j, i)| inside(at(k, j, i, 0), at(k, j, i, 1), at(k, j, i, 2));
        Mask::from_full(named, Array3::from_shape_fn(shape, inside).view()).expect("voxels")
    };
    shapes.into_iter().zip(STRUCTURES).map(mask).collect()
}

#[test]
#[ignore = "a measurement"]
fn contours_beside_rt_utils() {
    let (Some(python), Some(ct)) = (python(), data::series("acrin_nsclc_042")) else {
        return;
    };
    let series = series_of(ct.path());
    let masks = organs(&series);
    let folder = tempfile::tempdir().expect("a folder");
    let dumped = folder.path().join("masks");
    std::fs::write(&dumped, dump::dump(&series, &masks)).expect("written");
    let mut command = Command::new(&python);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/judge/fidelity.py"));
    command.arg(ct.path()).arg(&dumped);
    let styles = [
        ("exact", Holes::Keyhole, 0.0),
        ("half a voxel", Holes::Keyhole, 1.0),
        ("exact xor", Holes::Xor, 0.0),
    ];
    for (name, holes, simplify_mm) in styles {
        let style = Style {
            holes,
            simplify_mm,
            ..Style::default()
        };
        let kind = results::kind("rtstruct").expect("a kind");
        let object = with_source(&series, &masks, "measured", (name, &style), |source| {
            (kind.write)(source)
        });
        let path = folder.path().join(format!("ours {name}.dcm"));
        std::fs::write(&path, object.expect("an object").part10).expect("written");
        command.arg(path);
    }
    let output = run(&mut command);
    eprint!("{}{}", text(&output.stderr), text(&output.stdout));
    assert!(output.status.success());
}
