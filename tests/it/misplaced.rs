//! What is left of the outlines when the located boxes are as wrong as a localiser's: a table, not a verdict.

use crate::segmenting::{Case, cache, data, dice, have, segmenter};
use medlsamd::geometry::Box3;
use medlsamd::localise::{Located, Section};
use medlsamd::progress::Silent;
use medlsamd::segment::Outline;
use medlsamd::structure;

/// The box with every face moved by a normally distributed distance of this spread, the sections with it; drawn by the seed and
/// the structure's name, and so the same for ever.
fn misplaced(right: &Located, spread_mm: f64, seed: u64) -> Located {
    let name = right.structure.name.bytes();
    let mut state = name.fold(seed, |state, byte| {
        state.wrapping_mul(1_099_511_628_211) ^ u64::from(byte)
    });
    let mut uniform = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((state >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    };
    uniform();
    // Box and Muller.
    let mut shift = || spread_mm * (-2.0 * uniform().ln()).sqrt() * (std::f64::consts::TAU * uniform()).cos();
    let moves = [0; 3].map(|_| [shift(), shift()]);
    let moved = |[low, high]: [f64; 2], by: [f64; 2]| {
        // A box keeps some thickness.
        let least = (high - low).min(6.0);
        let (low, high) = (low + by[0], high + by[1]);
        let middle = (low + high) / 2.0;
        [low.min(middle - least / 2.0), high.max(middle + least / 2.0)]
    };
    let (min, max) = (right.bounds.min.to_array(), right.bounds.max.to_array());
    let sides = [0, 1, 2].map(|a| moved([min[a], max[a]], moves[a]));
    let mut sections: Vec<Section> = right
        .sections
        .iter()
        .filter(|s| s.z_mm[1] >= sides[2][0] && s.z_mm[0] <= sides[2][1])
        .map(|s| Section {
            x_mm: moved(s.x_mm, moves[0]),
            y_mm: moved(s.y_mm, moves[1]),
            z_mm: s.z_mm,
        })
        .collect();
    if let Some(lowest) = sections.first_mut() {
        lowest.z_mm[0] = sides[2][0];
    }
    if let Some(highest) = sections.last_mut() {
        highest.z_mm[1] = sides[2][1];
    }
    Located {
        bounds: Box3 {
            min: sides.map(|s| s[0]).into(),
            max: sides.map(|s| s[1]).into(),
        },
        sections,
        ..right.clone()
    }
}

/// Prints Dice with right boxes, then with boxes 8 mm off in three draws: `cargo test --test it misplaced -- --ignored --nocapture`.
#[test]
#[ignore = "takes minutes; prints figures"]
fn measure_segmentation_with_misplaced_boxes() {
    let totalseg = data().join("labelled/totalseg_example/ct.nii.gz");
    let cases = [
        ("totalseg_example", totalseg),
        ("lidc_0001", cache().join("sample/lidc_0001.nii.gz")),
    ];
    let mut segmenter = segmenter();
    for (name, ct) in cases.into_iter().filter(|(_, ct)| have(std::slice::from_ref(ct))) {
        let case = Case::read(&ct, &data().join("labelled").join(name));
        let right: Vec<Located> = structure::STRUCTURES.iter().filter_map(|s| case.locate(s)).collect();
        for (spread_mm, seed) in [(0.0, 0), (8.0, 1), (8.0, 2), (8.0, 3)] {
            let located: Vec<Located> = right.iter().map(|right| misplaced(right, spread_mm, seed)).collect();
            let begin = std::time::Instant::now();
            let outlines = segmenter.segment(&case.volume, &located, &Silent).unwrap();
            let seconds = begin.elapsed().as_secs_f64();
            println!("{name}, boxes {spread_mm} mm off, draw {seed}: {seconds:.1} s");
            for outline in &outlines {
                match outline {
                    Outline::Empty { structure, reason } => println!("{:<22} {reason}", structure.name),
                    Outline::Outlined(outlined) => {
                        let structure = outlined.mask.structure;
                        let dice = dice(&outlined.mask, &case.truth(structure));
                        println!(
                            "{:<22} {dice:.3}  predicted IoU {:.2}",
                            structure.name, outlined.predicted_iou
                        );
                    }
                }
            }
        }
    }
}
