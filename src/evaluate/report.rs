//! Rows as tables for people, as means, and as CSV.

use crate::evaluate::ablation::Worth;
use crate::evaluate::score::{Answer, Judgement, Row, View};
use crate::evaluate::surface::MaskScore;
use crate::table;
use serde::Serialize;
use std::collections::BTreeMap;

/// Mean and population standard deviation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Mean {
    pub mean: f64,
    pub sd: f64,
    pub count: usize,
}

/// `None` of nothing.
pub fn mean(values: impl Iterator<Item = f64>) -> Option<Mean> {
    let values: Vec<f64> = values.collect();
    let count = values.len();
    let mean = values.iter().sum::<f64>() / count as f64;
    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / count as f64;
    (count > 0).then(|| Mean {
        mean,
        sd: variance.sqrt(),
        count,
    })
}

/// A number of a row that is shown and averaged.
struct Column {
    /// In tables.
    title: &'static str,
    /// In JSON and CSV.
    key: &'static str,
    decimals: usize,
    value: fn(&Row) -> Option<f64>,
}

const fn column(title: &'static str, key: &'static str, decimals: usize, value: fn(&Row) -> Option<f64>) -> Column {
    Column {
        title,
        key,
        decimals,
        value,
    }
}

fn dsc(score: Option<MaskScore>) -> Option<f64> {
    Some(score?.dsc)
}
fn hd95(score: Option<MaskScore>) -> Option<f64> {
    score?.hd95_mm
}
fn surface(score: Option<MaskScore>) -> Option<f64> {
    Some(score?.surface_dsc)
}

const COLUMNS: [Column; 12] = [
    column("IoU", "box_iou", 2, |r| r.box_iou),
    column("WD mm", "wall_distance_mm", 1, |r| r.wall_distance_mm),
    column("ALE mm", "landmark_error_mm", 1, |r| r.landmark_error_mm),
    column("DSC", "dsc", 2, |r| dsc(r.located)),
    column("HD95", "hd95_mm", 1, |r| hd95(r.located)),
    column("sDSC", "surface_dsc_2mm", 2, |r| surface(r.located)),
    column("true: DSC", "true_box_dsc", 2, |r| dsc(r.true_box)),
    column("HD95", "true_box_hd95_mm", 1, |r| hd95(r.true_box)),
    column("sDSC", "true_box_surface_dsc_2mm", 2, |r| surface(r.true_box)),
    column("whole: DSC", "whole_box_dsc", 2, |r| dsc(r.whole_box)),
    column("HD95", "whole_box_hd95_mm", 1, |r| hd95(r.whole_box)),
    column("sDSC", "whole_box_surface_dsc_2mm", 2, |r| surface(r.whole_box)),
];

/// Means over some rows.
#[derive(Debug, Serialize)]
pub struct Summary {
    pub group: &'static str,
    /// `fully in view` or `all`, which adds those cut by the field of view.
    pub over: &'static str,
    pub structures: usize,
    /// Not found though they are there; their IoU, DSC and surface DSC are 0 and they have no distances.
    pub missed: usize,
    pub means: BTreeMap<&'static str, Mean>,
    /// Mean DSC with located boxes over that with true boxes.
    pub dsc_kept: Option<f64>,
}

/// Per group, over the structures with a true box.
pub fn summaries(rows: &[Row]) -> Vec<Summary> {
    let mut summaries = Vec::new();
    for group in groups(rows) {
        for (over, whole_only) in [("fully in view", true), ("all", false)] {
            let wanted = |r: &&Row| r.box_iou.is_some() && (!whole_only || r.view == View::Whole);
            let rows: Vec<&Row> = rows.iter().filter(|r| r.group == group).filter(wanted).collect();
            if rows.is_empty() {
                continue;
            }
            let of = |c: &Column| Some((c.key, mean(rows.iter().filter_map(|r| (c.value)(r)))?));
            let means: BTreeMap<&'static str, Mean> = COLUMNS.iter().filter_map(of).collect();
            let dsc_kept = means.get("dsc").zip(means.get("true_box_dsc"));
            summaries.push(Summary {
                group,
                over,
                structures: rows.len(),
                missed: rows.iter().filter(|r| r.answer == Answer::NotFound).count(),
                dsc_kept: dsc_kept.map(|(a, b)| a.mean / b.mean).filter(|q| q.is_finite()),
                means,
            });
        }
    }
    summaries
}

/// How often the answers fit what is there.
#[derive(Debug, Serialize)]
pub struct Presence {
    pub group: &'static str,
    /// All answers, or those that are not marked low confidence.
    pub answers: &'static str,
    pub absent: usize,
    pub false_finds: usize,
    pub present: usize,
    pub misses: usize,
}

/// Per group. What may go either way is not counted.
pub fn presence(rows: &[Row]) -> Vec<Presence> {
    let mut tables = Vec::new();
    for group in groups(rows) {
        for (answers, sure_only) in [("all", false), ("not marked low confidence", true)] {
            let wanted = |r: &&Row| {
                r.group == group
                    && r.judgement != Judgement::Unjudged
                    && (!sure_only || r.answer != Answer::LowConfidence)
            };
            let rows: Vec<&Row> = rows.iter().filter(wanted).collect();
            let count = |wanted: &dyn Fn(&Row) -> bool| rows.iter().filter(|r| wanted(r)).count();
            tables.push(Presence {
                group,
                answers,
                absent: count(&|r| r.present == Some(false)),
                false_finds: count(&|r| r.judgement == Judgement::FalseFind),
                present: count(&|r| r.present == Some(true)),
                misses: count(&|r| r.judgement == Judgement::Miss),
            });
        }
    }
    tables
}

fn groups(rows: &[Row]) -> Vec<&'static str> {
    let mut groups = Vec::new();
    for row in rows {
        if !groups.contains(&row.group) {
            groups.push(row.group);
        }
    }
    groups
}

/// The structures of one case that are there, and what was found though absent.
pub fn case_table(rows: &[Row]) -> String {
    let shown: Vec<&Row> = rows
        .iter()
        .filter(|r| r.box_iou.is_some() || matches!(r.judgement, Judgement::FalseFind | Judgement::Miss))
        .collect();
    if shown.is_empty() {
        let judged = rows.iter().filter(|r| r.judgement != Judgement::Unjudged).count();
        return format!("{judged} structures known to be there or not, every answer right\n");
    }
    let columns: Vec<&Column> = COLUMNS
        .iter()
        .filter(|c| shown.iter().any(|r| (c.value)(r).is_some()))
        .collect();
    let mut header = vec!["structure", "in view", "ml", "confidence"];
    header.extend(columns.iter().map(|c| c.title));
    header.push("why");
    let line = |r: &&Row| {
        let view = match r.view {
            View::Whole => "whole",
            View::Cut => "cut",
            View::Absent => "absent",
            View::Unknown => "unknown",
        };
        let verdict = match (r.judgement, r.answer) {
            (Judgement::FalseFind, Answer::LowConfidence) => "FALSE FIND, low confidence: ",
            (Judgement::FalseFind, _) => "FALSE FIND: ",
            (Judgement::Miss, _) => "MISSED: ",
            (_, Answer::LowConfidence) => "low confidence: ",
            (_, Answer::NotFound) => "not found: ",
            (_, Answer::Found) => "",
        };
        let number = |v: Option<f64>, decimals: usize| v.map_or_else(|| "-".into(), |v| format!("{v:.decimals$}"));
        let mut cells = vec![
            r.structure.into(),
            view.into(),
            number(r.volume_ml, 0),
            number(r.confidence, 2),
        ];
        cells.extend(columns.iter().map(|c| number((c.value)(r), c.decimals)));
        cells.push(format!("{verdict}{}", r.reason));
        cells
    };
    table::render(&header, &shown.iter().map(line).collect::<Vec<_>>())
}

/// Means, presence and ablations as text.
pub fn closing(rows: &[Row], worth: &[Worth]) -> String {
    let show = |m: Option<&Mean>, decimals: usize| {
        m.map_or_else(
            || "-".into(),
            |m| format!("{:.*} ± {:.*} ({})", decimals, m.mean, decimals, m.sd, m.count),
        )
    };
    let summaries = summaries(rows);
    let titles: Vec<String> = summaries.iter().map(|s| format!("{}, {}", s.group, s.over)).collect();
    let mut header = vec!["mean ± sd (how many)"];
    header.extend(titles.iter().map(String::as_str));
    let mut lines: Vec<Vec<String>> = Vec::new();
    let mut line = |title: &str, value: &dyn Fn(&Summary) -> String| {
        lines.push(
            std::iter::once(title.into())
                .chain(summaries.iter().map(value))
                .collect(),
        );
    };
    line("structures", &|s| s.structures.to_string());
    line("not found", &|s| s.missed.to_string());
    for c in &COLUMNS {
        if summaries.iter().any(|s| s.means.contains_key(c.key)) {
            line(c.key, &|s| show(s.means.get(c.key), c.decimals + 1));
        }
    }
    if summaries.iter().any(|s| s.dsc_kept.is_some()) {
        line("dsc / true_box_dsc", &|s| {
            s.dsc_kept.map_or_else(|| "-".into(), |q| format!("{q:.3}"))
        });
    }
    let mut text = String::new();
    if !summaries.is_empty() {
        text.push_str(&format!("\n{}", table::render(&header, &lines)));
    }
    text.push_str(&format!("\n{}", presence_table(rows)));
    if !worth.is_empty() {
        text.push_str(&format!("\n{}", worth_table(worth, &show)));
    }
    text
}

fn presence_table(rows: &[Row]) -> String {
    let share = |n: usize, of: usize| match of {
        0 => "-".into(),
        of => format!("{n} of {of} ({:.1} %)", 100.0 * n as f64 / of as f64),
    };
    let line = |p: &Presence| {
        vec![
            p.group.into(),
            p.answers.into(),
            share(p.false_finds, p.absent),
            share(p.misses, p.present),
        ]
    };
    let lines: Vec<Vec<String>> = presence(rows).iter().map(line).collect();
    table::render(
        &["presence", "answers", "false finds of absent", "misses of present"],
        &lines,
    )
}

fn worth_table(worth: &[Worth], show: &dyn Fn(Option<&Mean>, usize) -> String) -> String {
    let line = |w: &Worth| {
        vec![
            w.variant.into(),
            w.group.into(),
            show(w.box_iou.as_ref(), 3),
            show(w.wall_distance_mm.as_ref(), 1),
            show(w.landmark_error_mm.as_ref(), 1),
        ]
    };
    let lines: Vec<Vec<String>> = worth.iter().map(line).collect();
    table::render(
        &[
            "boxes without a verdict, fully in view",
            "",
            "box IoU",
            "wall distance mm",
            "ALE mm",
        ],
        &lines,
    )
}

/// One line per case and structure; an empty field is a number that does not exist.
pub fn csv(rows: &[Row]) -> String {
    let mut text = String::from("group,case,structure,view,present,answer,judgement,confidence,volume_ml");
    COLUMNS.iter().for_each(|c| text.push_str(&format!(",{}", c.key)));
    text.push_str(",reason\n");
    for r in rows {
        let word = |value: serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        let number = |v: Option<f64>| v.map_or_else(String::new, |v| format!("{v:.4}"));
        let mut fields = vec![
            r.group.into(),
            quoted(&r.case),
            r.structure.into(),
            word(serde_json::json!(r.view)),
            r.present.map_or_else(String::new, |p| p.to_string()),
            word(serde_json::json!(r.answer)),
            word(serde_json::json!(r.judgement)),
            number(r.confidence),
            number(r.volume_ml),
        ];
        fields.extend(COLUMNS.iter().map(|c| number((c.value)(r))));
        fields.push(quoted(&r.reason));
        text.push_str(&fields.join(","));
        text.push('\n');
    }
    text
}

/// The ablations likewise.
pub fn worth_csv(worth: &[Worth]) -> String {
    let mut text = String::from("group,variant,boxes");
    for key in ["box_iou", "wall_distance_mm", "landmark_error_mm"] {
        text.push_str(&format!(",{key},{key}_sd"));
    }
    text.push('\n');
    for w in worth {
        text.push_str(&format!("{},{},{}", w.group, w.variant, w.boxes));
        for m in [w.box_iou, w.wall_distance_mm, w.landmark_error_mm] {
            text.push_str(&m.map_or_else(|| ",,".into(), |m| format!(",{:.4},{:.4}", m.mean, m.sd)));
        }
        text.push('\n');
    }
    text
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(structure: &'static str, view: View, answer: Answer, judgement: Judgement, box_iou: Option<f64>) -> Row {
        let score = |dsc| {
            Some(MaskScore {
                dsc,
                hd95_mm: (dsc > 0.0).then_some(3.0),
                surface_dsc: dsc,
            })
        };
        Row {
            group: "labelled",
            case: "a \"case\"".into(),
            structure,
            view,
            present: Some(view != View::Absent),
            answer,
            judgement,
            reason: String::new(),
            confidence: None,
            volume_ml: None,
            box_iou,
            wall_distance_mm: None,
            landmark_error_mm: None,
            located: box_iou.and_then(score),
            true_box: box_iou.and_then(|_| score(0.8)),
            whole_box: None,
        }
    }

    fn rows() -> Vec<Row> {
        use Judgement::{FalseFind, Miss, Right, Unjudged};
        vec![
            row("liver", View::Whole, Answer::Found, Right, Some(0.8)),
            row("spleen", View::Whole, Answer::NotFound, Miss, Some(0.0)),
            row("aorta", View::Cut, Answer::LowConfidence, Right, Some(0.4)),
            row("brain", View::Absent, Answer::LowConfidence, FalseFind, None),
            row("sacrum", View::Absent, Answer::NotFound, Right, None),
            row("heart", View::Cut, Answer::NotFound, Unjudged, None),
        ]
    }

    #[test]
    fn misses_count_with_nothing_in_the_means() {
        let [whole, all] = &summaries(&rows())[..] else {
            panic!()
        };
        assert_eq!((whole.structures, whole.missed), (2, 1));
        let iou = whole.means["box_iou"];
        assert!((iou.mean - 0.4).abs() < 1e-12 && (iou.sd - 0.4).abs() < 1e-12);
        assert_eq!((whole.means["dsc"].count, whole.means["hd95_mm"].count), (2, 1));
        assert!((whole.dsc_kept.unwrap() - 0.5).abs() < 1e-12);
        assert_eq!(all.structures, 3);
    }

    #[test]
    fn presence_counts_what_can_be_judged_and_what_is_said_without_doubt() {
        let [all, sure] = &presence(&rows())[..] else { panic!() };
        assert_eq!((all.absent, all.false_finds, all.present, all.misses), (2, 1, 3, 1));
        assert_eq!((sure.absent, sure.false_finds, sure.present, sure.misses), (1, 0, 2, 1));
    }

    #[test]
    fn a_csv_line_per_structure_with_a_field_per_title() {
        let text = csv(&rows());
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 7);
        let fields = lines[0].split(',').count();
        assert!(lines.iter().all(|line| line.split(',').count() == fields), "{text}");
        assert!(lines[1].starts_with("labelled,\"a \"\"case\"\"\",liver,whole,true,found,right,"));
        assert!(case_table(&rows()).contains("MISSED"));
        assert!(closing(&rows(), &[]).contains("dsc / true_box_dsc"));
    }
}
