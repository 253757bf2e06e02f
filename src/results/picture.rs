//! A contact sheet for people: six axial levels, a coronal and a sagittal plane, outlines in the structures' colours, a legend.
//!
//! Every pixel is sampled in patient space, so the planes are radiological (patient's right on the viewer's left, head up) and
//! true to millimetres for whatever orientation the slices were stored in.

mod font;

use crate::geometry::{Box3, Grid, PatientPoint, Vec3};
use crate::mask::Mask;
use crate::structure::Role;
use crate::volume::Volume;

/// Side of the square a plane is fitted into, pixels.
const CELL: usize = 400;
const COLUMNS: usize = 4;
const ROWS: usize = 2;
const AXIAL_LEVELS: usize = COLUMNS * ROWS - 2;
const LEGEND: usize = 340;
const LEGEND_LINE: usize = 19;
/// Grey window, HU: soft tissue, with lung still apart from air outside.
const HU_BLACK: f32 = -260.0;
const HU_WHITE: f32 = 340.0;
/// Share of the colour in a filled area; its edge has all of it.
const FILL: f32 = 0.3;
const WHITE: [u8; 3] = [235, 235, 235];

/// A picture in sRGB, three bytes a pixel, row by row.
#[derive(Clone, Debug, Default)]
pub struct Sheet {
    pub width: usize,
    pub height: usize,
    pub pixels: Vec<u8>,
}

impl Sheet {
    fn put(&mut self, x: usize, y: usize, colour: [u8; 3]) {
        if x < self.width && y < self.height {
            let at = (y * self.width + x) * 3;
            self.pixels[at..at + 3].copy_from_slice(&colour);
        }
    }

    /// Draws capitals of 10 × 14 pixels with their upper left corner at (x, y).
    fn write(&mut self, x: usize, y: usize, colour: [u8; 3], text: &str) {
        self.letter(x, y, colour, 2, text);
    }

    /// Draws capitals of 5 × 7 dots, six dots apart, a dot being `dot` pixels wide.
    pub(crate) fn letter(&mut self, x: usize, y: usize, colour: [u8; 3], dot: usize, text: &str) {
        for (n, letter) in text.chars().enumerate() {
            for (row, bits) in font::glyph(letter).iter().enumerate() {
                for column in (0..5).filter(|column| bits >> (4 - column) & 1 == 1) {
                    for at in 0..dot * dot {
                        let (dx, dy) = (at % dot, at / dot);
                        self.put(x + (n * 6 + column) * dot + dx, y + row * dot + dy, colour);
                    }
                }
            }
        }
    }

    /// A black one.
    pub(crate) fn blank(width: usize, height: usize) -> Self {
        Self {
            width,
            height,
            pixels: vec![0; width * height * 3],
        }
    }
}

/// A plane through patient space: the point at its upper left, and unit vectors of the viewer's right and down.
struct View {
    origin: Vec3,
    right: Vec3,
    down: Vec3,
    width_mm: f64,
    height_mm: f64,
    title: String,
    left_mark: &'static str,
    right_mark: &'static str,
}

/// Draws the contact sheet and encodes it as PNG. Holds no patient data.
pub fn contact_sheet(volume: &Volume, masks: &[Mask]) -> Sheet {
    comparison(volume, masks, &[])
}

/// The same with the outlines of reference masks in white over them.
pub fn comparison(volume: &Volume, masks: &[Mask], references: &[Mask]) -> Sheet {
    let (width, height) = (COLUMNS * CELL + LEGEND, ROWS * CELL);
    let mut canvas = Sheet::blank(width, height);
    for (n, view) in views(volume, if masks.is_empty() { references } else { masks })
        .iter()
        .enumerate()
    {
        draw(
            &mut canvas,
            (n % COLUMNS * CELL, n / COLUMNS * CELL),
            view,
            volume,
            [masks, references],
        );
    }
    if !references.is_empty() {
        canvas.write(COLUMNS * CELL + 14, height - 24, WHITE, "REFERENCE IN WHITE");
    }
    legend(&mut canvas, masks, volume.grid.voxel_volume_ml());
    canvas
}

impl Sheet {
    /// As a PNG file.
    pub fn png(&self) -> Vec<u8> {
        let mut file = Vec::new();
        let mut encoder = png::Encoder::new(&mut file, self.width as u32, self.height as u32);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        let mut writer = encoder.write_header().expect("a Vec takes every byte");
        writer
            .write_image_data(&self.pixels)
            .expect("the buffer has the declared size");
        writer.finish().expect("a Vec takes every byte");
        file
    }
}

/// Where the structures are, or the whole volume when there are none.
fn region(grid: &Grid, masks: &[Mask]) -> Box3 {
    let mut region = Box3::EMPTY;
    // The body is everywhere: levels are chosen by organs where there are any.
    let organs = masks.iter().any(|mask| mask.structure.role == Role::Organ);
    for mask in masks
        .iter()
        .filter(|mask| !organs || mask.structure.role == Role::Organ)
    {
        let (k, j, i) = mask.voxels.dim();
        for corner in 0..8usize {
            let at = |axis: usize, size: usize| (mask.offset[axis] + (corner >> axis & 1) * (size - 1)) as f64;
            region.include(grid.to_patient([at(0, i), at(1, j), at(2, k)]));
        }
    }
    if masks.is_empty() { grid.bounds() } else { region }
}

fn views(volume: &Volume, masks: &[Mask]) -> Vec<View> {
    let Box3 { min, max } = volume.grid.bounds();
    let region = region(&volume.grid, masks);
    let [width, depth, height] = Box3 { min, max }.size_mm();
    let (left, posterior, inferior) = ([1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, -1.0]);
    let mut views = Vec::new();
    for level in 0..AXIAL_LEVELS {
        // From head to foot, clear of the very ends.
        let z = region.max.z - (level as f64 + 0.5) / AXIAL_LEVELS as f64 * (region.max.z - region.min.z);
        let (origin, title) = ([min.x, min.y, z], format!("AXIAL {z:.0} MM"));
        views.push(View {
            origin,
            right: left,
            down: posterior,
            width_mm: width,
            height_mm: depth,
            title,
            left_mark: "R",
            right_mark: "L",
        });
    }
    let middle = |low: f64, high: f64| (low + high) / 2.0;
    let y = middle(region.min.y, region.max.y);
    let (origin, title) = ([min.x, y, max.z], format!("CORONAL {y:.0} MM"));
    views.push(View {
        origin,
        right: left,
        down: inferior,
        width_mm: width,
        height_mm: height,
        title,
        left_mark: "R",
        right_mark: "L",
    });
    let x = middle(region.min.x, region.max.x);
    let (origin, title) = ([x, min.y, max.z], format!("SAGITTAL {x:.0} MM"));
    views.push(View {
        origin,
        right: posterior,
        down: inferior,
        width_mm: depth,
        height_mm: height,
        title,
        left_mark: "A",
        right_mark: "P",
    });
    views
}

fn draw(canvas: &mut Sheet, (x0, y0): (usize, usize), view: &View, volume: &Volume, [masks, references]: [&[Mask]; 2]) {
    let mm_per_pixel = view.width_mm.max(view.height_mm) / CELL as f64;
    let pixels = |length_mm: f64| ((length_mm / mm_per_pixel) as usize).clamp(1, CELL);
    let (width, height) = (pixels(view.width_mm), pixels(view.height_mm));
    let (x0, y0) = (x0 + (CELL - width) / 2, y0 + (CELL - height) / 2);
    let at = |x: usize, y: usize| -> PatientPoint {
        let (u, v) = ((x as f64 + 0.5) * mm_per_pixel, (y as f64 + 0.5) * mm_per_pixel);
        [0, 1, 2]
            .map(|axis| view.origin[axis] + u * view.right[axis] + v * view.down[axis])
            .into()
    };
    let places: Vec<Vec3> = (0..width * height)
        .map(|n| volume.grid.to_voxel(at(n % width, n / width)))
        .collect();
    let mut colours: Vec<[f32; 3]> = places.iter().map(|voxel| [grey(volume, *voxel); 3]).collect();
    for mask in masks {
        // A filled body would tint everything else.
        let fill = if mask.structure.role == Role::Organ { FILL } else { 0.0 };
        paint(&mut colours, &places, width, mask, (mask.structure.colour, fill));
    }
    for mask in references {
        paint(&mut colours, &places, width, mask, (WHITE, 0.0));
    }
    for (n, colour) in colours.iter().enumerate() {
        canvas.put(x0 + n % width, y0 + n / width, colour.map(|c| c.round() as u8));
    }
    let top = y0 + 4;
    canvas.write(x0 + 20, top, WHITE, &view.title);
    canvas.write(x0 + 4, y0 + height / 2, WHITE, view.left_mark);
    canvas.write(x0 + width - 14, y0 + height / 2, WHITE, view.right_mark);
}

/// Fills where the mask is with a share of the colour, and gives its edge all of it.
fn paint(colours: &mut [[f32; 3]], places: &[Vec3], width: usize, mask: &Mask, (paint, fill): ([u8; 3], f32)) {
    let inside: Vec<bool> = places
        .iter()
        .map(|place| nearest(*place).is_some_and(|voxel| mask.contains(voxel)))
        .collect();
    for n in (0..inside.len()).filter(|n| inside[*n]) {
        let (x, last) = (n % width, inside.len() - 1);
        let edge = x == 0
            || x + 1 == width
            || !inside[n - 1]
            || !inside[(n + 1).min(last)]
            || n < width
            || !inside[n - width]
            || n + width > last
            || !inside[n + width];
        let share = if edge { 1.0 } else { fill };
        for (c, colour) in colours[n].iter_mut().enumerate() {
            *colour += share * (f32::from(paint[c]) - *colour);
        }
    }
}

fn nearest(voxel: Vec3) -> Option<[usize; 3]> {
    voxel
        .iter()
        .all(|v| *v > -0.5)
        .then(|| voxel.map(|v| v.round() as usize))
}

/// Grey value 0…255 by trilinear interpolation; black outside the volume.
fn grey(volume: &Volume, voxel: Vec3) -> f32 {
    let size = volume.grid.size;
    if (0..3).any(|axis| voxel[axis] < -0.5 || voxel[axis] > size[axis] as f64 - 0.5) {
        return 0.0;
    }
    let base = [0, 1, 2].map(|axis| voxel[axis].clamp(0.0, size[axis] as f64 - 1.0));
    let mut hu = 0.0;
    for corner in 0..8usize {
        let mut weight = 1.0;
        let index = [0, 1, 2].map(|axis| {
            let upper = corner >> axis & 1 == 1;
            weight *= if upper {
                base[axis].fract()
            } else {
                1.0 - base[axis].fract()
            };
            (base[axis] as usize + usize::from(upper)).min(size[axis] - 1)
        });
        hu += weight as f32 * f32::from(volume.hu[[index[2], index[1], index[0]]]);
    }
    ((hu - HU_BLACK) / (HU_WHITE - HU_BLACK) * 255.0).clamp(0.0, 255.0)
}

fn legend(canvas: &mut Sheet, masks: &[Mask], voxel_volume_ml: f64) {
    let x = COLUMNS * CELL + 14;
    canvas.write(x, 8, WHITE, "AI-MADE, NOT REVIEWED");
    for (n, mask) in masks.iter().enumerate() {
        let y = 36 + n * LEGEND_LINE;
        let colour = mask.structure.colour;
        for dy in 0..12 {
            (0..12).for_each(|dx| canvas.put(x + dx, y + 1 + dy, colour));
        }
        canvas.write(x + 20, y, WHITE, mask.structure.roi_name);
        let volume = format!("{:.0}", mask.voxel_count() as f64 * voxel_volume_ml);
        canvas.write(canvas.width - 44 - 12 * volume.len(), y, WHITE, &format!("{volume} ML"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::structure::by_name;
    use ndarray::Array3;

    /// A volume whose columns run to the patient's right and whose slices run to the feet; a mask at the patient's left, high up.
    fn turned() -> (Volume, Mask) {
        let grid = Grid {
            origin: PatientPoint::new(50.0, -40.0, 90.0),
            directions: [[-1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, -1.0]],
            spacing_mm: [2.0, 2.0, 5.0],
            size: [50, 40, 20],
        };
        let mask = Mask {
            structure: by_name("spleen").unwrap(),
            offset: [2, 18, 1],
            voxels: Array3::from_elem((2, 6, 6), true),
        };
        (
            Volume {
                hu: Array3::from_elem(grid.shape(), 40),
                grid,
            },
            mask,
        )
    }

    /// Mean place of a colour's pixels within a cell.
    fn centre(sheet: &Sheet, colour: [u8; 3], cell: usize) -> (f64, f64) {
        let (x0, y0) = (cell % COLUMNS * CELL, cell / COLUMNS * CELL);
        let (mut x, mut y, mut count) = (0.0, 0.0, 0.0);
        for n in 0..CELL * CELL {
            let (px, py) = (n % CELL, n / CELL);
            let at = ((y0 + py) * sheet.width + x0 + px) * 3;
            if sheet.pixels[at..at + 3] == colour {
                (x, y, count) = (x + px as f64, y + py as f64, count + 1.0);
            }
        }
        (x / count, y / count)
    }

    #[test]
    fn the_patients_left_is_on_the_viewers_right_and_the_head_is_up() {
        let (volume, mask) = turned();
        let sheet = contact_sheet(&volume, std::slice::from_ref(&mask));
        let (axial_x, _) = centre(&sheet, mask.structure.colour, 0);
        assert!(axial_x > 0.8 * CELL as f64, "{axial_x}");
        let (coronal_x, coronal_y) = centre(&sheet, mask.structure.colour, AXIAL_LEVELS);
        assert!(
            coronal_x > 0.8 * CELL as f64 && coronal_y < 0.25 * CELL as f64,
            "{coronal_x} {coronal_y}"
        );
    }

    #[test]
    fn a_reference_is_a_white_outline_over_the_mask() {
        let (volume, mask) = turned();
        let white = |references: &[Mask]| {
            let sheet = comparison(&volume, std::slice::from_ref(&mask), references);
            centre(&sheet, WHITE, AXIAL_LEVELS).0
        };
        // without a reference the only white is the writing, left of the mask
        assert!(white(&[]) + 20.0 < white(std::slice::from_ref(&mask)));
    }

    #[test]
    fn a_sheet_without_structures_is_still_a_picture() {
        let (volume, _) = turned();
        assert!(contact_sheet(&volume, &[]).png().starts_with(b"\x89PNG"));
    }
}
