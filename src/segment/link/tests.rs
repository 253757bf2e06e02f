//! Drawn answers of the network, and what a track makes of them.

use crate::geometry::PatientPoint;
use crate::localise::Section;
use crate::segment::link::*;
use crate::segment::prepare::PLANE;
use crate::segment::prepare::tests::recipe;
use crate::segment::rules::Beyond;
use crate::structure;
use ndarray::Array2;

/// 64 × 64 × 21 voxels of 4 × 4 × 2.5 mm, stored as most scanners do: one view pixel is four of the plane.
pub fn grid() -> Grid {
    Grid {
        origin: PatientPoint::new(0.0, 0.0, 0.0),
        directions: [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
        spacing_mm: [4.0, 4.0, 2.5],
        size: [64, 64, 21],
    }
}

pub fn rules() -> Rules {
    Rules {
        encode_step_mm: 5.0,
        clip_mm: 5.0,
        margins_px: vec![1.0, 3.0],
        section_margin_px: 1.0,
        dice_weight: 0.5,
        min_dice: 0.1,
        min_area_px: 4,
        doubtful_iou: 0.6,
        sure_iou: 0.7,
        beyond: Beyond {
            reach_mm: 10.0,
            share: 0.2,
            min_iou: 0.8,
            min_dice: 0.6,
            max_growth: 1.15,
        },
        plausible_hu: [[-70.0, 700.0], [60.0, 2000.0], [-1100.0, -350.0]],
    }
}

/// The HU of an organ, everywhere.
fn flesh(_: [usize; 2]) -> f32 {
    50.0
}

/// The structure in a box of voxels.
pub fn located(name: &str, grid: &Grid, low: [f64; 3], high: [f64; 3]) -> Located {
    let mut bounds = Box3::EMPTY;
    bounds.include(grid.to_patient(low));
    bounds.include(grid.to_patient(high));
    Located {
        structure: structure::by_name(name).unwrap(),
        bounds,
        sections: Vec::new(),
        truncated: Vec::new(),
        confidence: 1.0,
        low_confidence: false,
        reasons: Vec::new(),
    }
}

fn track<'a>(located: &'a Located, grid: &Grid) -> Option<Track<'a>> {
    let view = View::of(grid);
    let frame = Frame::new(view.size, &recipe(256, false, false));
    Track::new(located, grid, &view, &frame, &Keys::new(grid, 5.0), &rules())
}

/// Logits of a disc in the plane.
pub fn disc(centre: [f64; 2], radius: f64) -> Array2<f32> {
    Array2::from_shape_fn((PLANE, PLANE), |(y, x)| {
        (radius - (x as f64 - centre[0]).hypot(y as f64 - centre[1])) as f32
    })
}

#[test]
fn propagation_starts_in_the_middle_and_follows_the_mask_both_ways_until_it_ends() {
    let grid = grid();
    let kidney = located("kidney_left", &grid, [20.0, 20.0, 4.0], [40.0, 40.0, 16.0]);
    let mut track = track(&kidney, &grid).unwrap();
    // 5 mm are two slices.
    assert_eq!(track.slices, [2, 18]);
    assert!(track.prompts(8, Sweep::Up, &rules()).is_empty());
    for (sweep, slices) in [
        (Sweep::Up, (0..21).collect::<Vec<_>>()),
        (Sweep::Down, (0..21).rev().collect()),
    ] {
        for k in slices {
            let prompts = track.prompts(k, sweep, &rules());
            match (k, sweep) {
                (10, Sweep::Up) => assert_eq!(
                    prompts,
                    [Rect {
                        min: [81.5; 2],
                        max: [161.5; 2]
                    }]
                ),
                (12, Sweep::Up) => assert_eq!(
                    prompts[1],
                    Rect {
                        min: [97.0 - 3.0; 2],
                        max: [103.0 + 3.0; 2]
                    }
                ),
                _ => {}
            }
            // A disc that shifts by two pixels a key slice and is gone above slice 14.
            let centre = [100.0 + (k as f64 - 10.0); 2];
            let logits = if k > 14 { disc(centre, -1.0) } else { disc(centre, 4.0) };
            let answers: Vec<_> = prompts.iter().map(|_| (logits.view(), 0.9)).collect();
            track.accept(k, sweep, &answers, &rules(), &flesh);
        }
    }
    assert_eq!(
        track.planes.keys().copied().collect::<Vec<_>>(),
        // Slice 2 lies outside the box, where so little overlap does not do.
        [4, 6, 8, 10, 12, 14]
    );
    assert!((track.predicted_iou() - 0.9).abs() < 1e-6);
    assert_eq!(track.doubt(&rules()), None);
    let demanding = Rules {
        doubtful_iou: 0.95,
        ..rules()
    };
    assert!(track.doubt(&demanding).is_some_and(|doubt| doubt.contains("0.90")));
}

/// The key slices that are kept when every answer on slice k is a disc of this radius and estimate.
fn kept(name: &str, sections: &[[f64; 2]], answer: impl Fn(usize) -> (f64, f32)) -> Vec<usize> {
    kept_on(&grid(), name, sections, answer)
}

/// The same of another acquisition of the same patient: the box and its sections lie where they lay.
fn kept_on(grid: &Grid, name: &str, sections: &[[f64; 2]], answer: impl Fn(usize) -> (f64, f32)) -> Vec<usize> {
    let mut organ = located(name, &self::grid(), [20.0, 20.0, 6.0], [40.0, 40.0, 14.0]);
    let part = |z: &[f64; 2]| Section {
        z_mm: z.map(|k| k * 2.5),
        y_mm: [80.0, 160.0],
        x_mm: [80.0, 160.0],
    };
    organ.sections = sections.iter().map(part).collect();
    let view = View::of(grid);
    let frame = Frame::new(view.size, &recipe(256, false, false));
    let mut rules = rules();
    rules.beyond.share = 0.5;
    let mut track = Track::new(&organ, grid, &view, &frame, &Keys::new(grid, 5.0), &rules).unwrap();
    let slices = |sweep| match sweep {
        Sweep::Up => (0..21).collect::<Vec<_>>(),
        Sweep::Down => (0..21).rev().collect(),
    };
    for sweep in [Sweep::Up, Sweep::Down] {
        for k in slices(sweep) {
            let (radius, iou) = answer(k);
            let logits = disc(track.whole_middle, radius);
            let prompts = track.prompts(k, sweep, &rules);
            let answers: Vec<_> = prompts.iter().map(|_| (logits.view(), iou)).collect();
            track.accept(k, sweep, &answers, &rules, &flesh);
        }
    }
    track.planes.keys().copied().collect()
}

#[test]
fn an_organ_that_plainly_goes_on_is_followed_beyond_its_box_and_never_far() {
    for (name, sections) in [("kidney_left", vec![]), ("liver", vec![[6.0, 10.0], [10.0, 14.0]])] {
        let kept = |answer: fn(usize) -> (f64, f32)| kept(name, &sections, answer);
        // 10 mm are four slices: what never ends is stopped there.
        assert_eq!(kept(|_| (20.0, 0.9)), [2, 4, 6, 8, 10, 12, 14, 16, 18], "{name}");
        // The network doubts; the mask leaps; the mask grows.
        let inside = [6, 8, 10, 12, 14];
        assert_eq!(
            kept(|k| (20.0, if !(6..=14).contains(&k) { 0.7 } else { 0.9 })),
            inside,
            "{name}"
        );
        assert_eq!(
            kept(|k| (if !(6..=14).contains(&k) { 9.0 } else { 20.0 }, 0.9)),
            inside,
            "{name}"
        );
        assert_eq!(
            kept(|k| (if !(6..=14).contains(&k) { 24.0 } else { 20.0 }, 0.9)),
            inside,
            "{name}"
        );
        // It is lost for good where it is lost once.
        let gap = |k| (20.0, if k == 16 || k == 4 { 0.1 } else { 0.9 });
        assert_eq!(kept(gap), inside, "{name}");
    }
}

/// Leaning slices cut the corners of the box for far longer than they cut the organ in it.
#[test]
fn on_tilted_slices_an_organ_ends_where_it_ends_on_upright_ones() {
    for tilt_deg in [-25.0f64, -12.0, 12.0, 25.0] {
        let (sin, cos) = tilt_deg.to_radians().sin_cos();
        let mut grid = grid();
        grid.directions[1] = [0.0, cos, sin];
        // The planes turn about the middle of the box.
        grid.origin = PatientPoint::new(0.0, 120.0 * (1.0 - cos), -120.0 * sin);
        for mirrored in [false, true] {
            if mirrored {
                // Rows stored from back to front.
                grid.origin = grid.to_patient([0.0, 63.0, 0.0]);
                grid.directions[1] = grid.directions[1].map(|v| -v);
            }
            for (name, sections) in [("kidney_left", vec![]), ("liver", vec![[6.0, 10.0], [10.0, 14.0]])] {
                let kept = |answer: fn(usize) -> (f64, f32)| kept_on(&grid, name, &sections, answer);
                let case = format!("{name} {tilt_deg} {mirrored}");
                assert_eq!(kept(|_| (20.0, 0.9)), [2, 4, 6, 8, 10, 12, 14, 16, 18], "{case}");
                let doubted = kept(|k| (20.0, if !(6..=14).contains(&k) { 0.7 } else { 0.9 }));
                assert_eq!(doubted, [6, 8, 10, 12, 14], "{case}");
            }
        }
    }
}

#[test]
fn the_answer_that_agrees_with_its_neighbour_wins_over_one_a_little_surer_of_itself() {
    let grid = grid();
    let kidney = located("kidney_left", &grid, [20.0, 20.0, 4.0], [40.0, 40.0, 16.0]);
    let mut track = track(&kidney, &grid).unwrap();
    let (right, wrong) = (disc([100.0; 2], 9.0), disc([130.0; 2], 20.0));
    track.accept(10, Sweep::Up, &[(right.view(), 0.9)], &rules(), &flesh);
    track.accept(
        12,
        Sweep::Up,
        &[(wrong.view(), 0.99), (right.view(), 0.8)],
        &rules(),
        &flesh,
    );
    assert_eq!(track.planes[&12].iou, 0.8);
    // Nothing that overlaps at all: the structure has ended.
    track.accept(
        14,
        Sweep::Up,
        &[(disc([140.0, 90.0], 6.0).view(), 0.99)],
        &rules(),
        &flesh,
    );
    assert!(!track.planes.contains_key(&14));
}

#[test]
fn a_mask_of_another_tissue_is_not_taken() {
    let grid = grid();
    let kidney = located("kidney_left", &grid, [20.0, 20.0, 4.0], [40.0, 40.0, 16.0]);
    let mut track = track(&kidney, &grid).unwrap();
    let answer = disc([100.0; 2], 9.0);
    let mostly_fat = |[x, _]: [usize; 2]| if x > 94 { -110.0 } else { 30.0 };
    track.accept(10, Sweep::Up, &[(answer.view(), 0.9)], &rules(), &mostly_fat);
    assert!(track.planes.is_empty());
    track.accept(10, Sweep::Up, &[(answer.view(), 0.9)], &rules(), &flesh);
    assert_eq!(track.planes.len(), 1);
    // A stomach a third full of gas is a stomach, whatever its mean.
    let bubble = |[_, y]: [usize; 2]| if y < 97 { -950.0 } else { 30.0 };
    track.accept(8, Sweep::Down, &[(answer.view(), 0.9)], &rules(), &bubble);
    assert_eq!(track.planes.len(), 2);
}

#[test]
fn a_mask_can_not_leave_the_box_by_more_than_the_clip() {
    let grid = grid();
    let kidney = located("kidney_left", &grid, [20.0, 20.0, 4.0], [40.0, 40.0, 16.0]);
    let mut track = track(&kidney, &grid).unwrap();
    track.accept(
        10,
        Sweep::Up,
        &[(disc([120.0; 2], 300.0).view(), 1.0)],
        &rules(),
        &flesh,
    );
    // 5 mm are five plane pixels.
    assert_eq!(
        track.planes[&10].bounds().unwrap(),
        Rect {
            min: [77.0; 2],
            max: [166.0; 2]
        }
    );
}

#[test]
fn sections_are_interpolated_between_their_middles() {
    let grid = grid();
    let mut liver = located("liver", &grid, [10.0, 10.0, 2.0], [50.0, 50.0, 18.0]);
    let part = |z: [f64; 2], x: [f64; 2]| Section {
        z_mm: z.map(|k| k * 2.5),
        y_mm: [40.0, 200.0],
        x_mm: x.map(|i| i * 4.0),
    };
    liver.sections = vec![part([10.0, 18.0], [30.0, 50.0]), part([2.0, 10.0], [10.0, 50.0])];
    let track = track(&liver, &grid).unwrap();
    let left = |k| track.prompts(k, Sweep::Up, &rules())[0].min[0];
    // Middles at slices 6 and 14, left edges at view columns 10 and 30; one plane pixel of margin.
    assert_eq!([2, 6, 10, 14, 18].map(left), [40.5, 40.5, 80.5, 120.5, 120.5]);
    assert!(track.prompts(6, Sweep::Down, &rules()).is_empty());
}

#[test]
fn a_box_that_misses_the_volume_makes_no_track() {
    let grid = grid();
    for (low, high) in [
        ([20.0, 20.0, 30.0], [40.0, 40.0, 40.0]),
        ([70.0, 20.0, 4.0], [80.0, 40.0, 9.0]),
    ] {
        assert!(track(&located("liver", &grid, low, high), &grid).is_none());
    }
    let mut crossed = located("liver", &grid, [20.0, 20.0, 4.0], [40.0, 40.0, 9.0]);
    crossed.bounds.min.x = f64::NAN;
    assert!(track(&crossed, &grid).is_none());
}
