//! `medlsamd evaluate`: how well organs are found and outlined, against labels and against points placed by eye.

use crate::cli::labels::{self, Ct};
use crate::cli::print;
use crate::config::Config;
use crate::engines;
use crate::evaluate::ablation::{Tally, VARIANTS, Worth};
use crate::evaluate::report;
use crate::evaluate::score::{self, Case, Row};
use crate::evaluate::truth::{self, Truth};
use crate::exit::Exit;
use crate::localise::Localiser;
use crate::mask::Mask;
use crate::nifti;
use crate::progress::Progress;
use crate::results::picture;
use crate::segment::Segmenter;
use crate::structure::{self, Structure};
use crate::teach::{self, Placed, Presence};
use crate::terminal::Shown;
use crate::volume::Volume;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

#[derive(clap::Args)]
pub struct Args {
    /// A CT (NIfTI file or DICOM folder) of known structures; as many as there are --labels
    #[arg(long, value_name = "PATH", requires = "labels")]
    ct: Vec<PathBuf>,
    /// What it shows: an RTSTRUCT or SEG of it, a folder of them, a label NIfTI with `labels.json` beside it, or a points JSON
    #[arg(long, value_name = "PATH", requires = "ct")]
    labels: Vec<PathBuf>,
    /// Take a region of an RTSTRUCT or SEG for this structure, or for none; #3 is the region of number 3
    #[arg(long = "as", value_name = "REGION=STRUCTURE")]
    by_hand: Vec<String>,
    /// Points files of the bank's templates: each volume is judged by the other patients' templates
    #[arg(long, value_name = "DIR", requires = "ct_dir")]
    leave_one_out: Option<PathBuf>,
    /// JSON of which structures further volumes show, to count false finds and misses
    #[arg(long, value_name = "FILE", requires = "ct_dir")]
    presence: Option<PathBuf>,
    /// Where the CTs of these two lie, as ID.nii.gz
    #[arg(long, value_name = "DIR")]
    ct_dir: Option<PathBuf>,
    /// Only these, comma separated [default: every structure of the template bank]
    #[arg(long, value_delimiter = ',', value_name = "A,B")]
    structures: Vec<String>,
    /// Localisation only
    #[arg(long)]
    no_segment: bool,
    /// Outline once more with one box for all slices (WPL against SPL)
    #[arg(long)]
    whole_boxes: bool,
    /// Also say what each step of the localisation and more templates are worth
    #[arg(long)]
    ablations: bool,
    /// Where structures.csv, ablations.csv and a picture per outlined case go
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// A volume to judge, not read yet.
struct Order {
    group: &'static str,
    id: String,
    ct: PathBuf,
    known: Known,
}

enum Known {
    Labels(PathBuf),
    Points(Truth),
}

const LABELLED: &str = "labelled";
const LEFT_OUT: &str = "leave one out";
const PRESENCE: &str = "presence only";

struct Bench<'a> {
    args: &'a Args,
    localiser: Localiser,
    segmenter: Option<Segmenter>,
    wanted: Vec<&'static Structure>,
    rows: Vec<Row>,
    tallies: BTreeMap<(&'static str, usize), Tally>,
    /// Seconds of localisation per volume.
    seconds: BTreeMap<String, f64>,
}

pub fn run(config: &Config, args: &Args, json: bool) -> Result<(), Exit> {
    let orders = orders(args)?;
    let runtime = engines::runtime(config)?;
    let localiser = engines::localiser(config, &runtime)?;
    let outlines = !args.no_segment && orders.iter().any(|o| matches!(o.known, Known::Labels(_)));
    let segmenter = outlines.then(|| engines::segmenter(config, &runtime)).transpose()?;
    let mut bench = Bench {
        args,
        wanted: wanted(&args.structures, &localiser)?,
        localiser,
        segmenter,
        rows: Vec::new(),
        tallies: BTreeMap::new(),
        seconds: BTreeMap::new(),
    };
    if let Some(out) = &args.out {
        std::fs::create_dir_all(out).map_err(|e| Exit::Usage(format!("cannot make {}: {e}", out.display())))?;
    }
    let shown = Shown::default();
    for order in orders {
        let (id, before) = (order.id.clone(), bench.rows.len());
        bench.judge(order, &shown)?;
        shown.finish();
        if !json {
            println!("\n== {id}, located in {:.1} s", bench.seconds[&id]);
            print!("{}", report::case_table(&bench.rows[before..]));
        }
    }
    let worth = bench.worth();
    if let Some(out) = &args.out {
        put(&out.join("structures.csv"), report::csv(&bench.rows).as_bytes())?;
        if args.ablations {
            put(&out.join("ablations.csv"), report::worth_csv(&worth).as_bytes())?;
        }
    }
    let manifest = &bench.localiser.manifest;
    let facts = serde_json::json!({
        "localiser": { "name": manifest.name, "version": manifest.version, "sha256": manifest.sha256 },
        "structures": bench.rows,
        "means": report::summaries(&bench.rows),
        "presence": report::presence(&bench.rows),
        "ablations": worth,
        "localisation_s": bench.seconds,
    });
    print(json, &facts, || {
        format!(
            "{}\n{} {}\n",
            report::closing(&bench.rows, &worth),
            manifest.name,
            manifest.version
        )
    });
    Ok(())
}

impl Bench<'_> {
    fn judge(&mut self, order: Order, progress: &dyn Progress) -> Result<(), Exit> {
        let cancelled = || Exit::Failed("cancelled".into());
        let ct = Ct::read(&order.ct)?;
        let truth = match order.known {
            Known::Points(truth) => truth,
            Known::Labels(path) if labels::is_dicom(&path) => self.drawn(&order.id, &ct, &path)?,
            Known::Labels(path) => labelled(&order.id, &ct.volume, &path)?,
        };
        let volume = ct.volume;
        let started = Instant::now();
        let observation = self.localiser.observe(&volume)?;
        let bank = truth.others(&self.localiser.bank);
        let case = Case {
            group: order.group,
            truth: &truth,
            observation: &observation,
            bank: &bank,
            wanted: &self.wanted,
            thresholds: self.localiser.thresholds(),
        };
        let (mut rows, findings) = case.localise(progress).ok_or_else(cancelled)?;
        self.seconds.insert(order.id.clone(), started.elapsed().as_secs_f64());
        if self.args.ablations {
            for (n, variant) in VARIANTS.iter().enumerate() {
                let tally = self.tallies.entry((order.group, n)).or_default();
                variant.measure(&case, tally, progress).ok_or_else(cancelled)?;
            }
        }
        if let Some(segmenter) = self.segmenter.as_mut().filter(|_| !truth.masks.is_empty()) {
            let whole = self.args.whole_boxes;
            let masks = score::outline(&mut rows, &findings, &truth, &volume, segmenter, whole, progress)?;
            if let Some(out) = &self.args.out {
                let judged = case.judged();
                let real: Vec<Mask> = truth
                    .masks
                    .iter()
                    .filter(|m| judged.contains(&m.structure))
                    .cloned()
                    .collect();
                put(
                    &out.join(format!("{}.png", order.id)),
                    &picture::comparison(&volume, &masks, &real).png(),
                )?;
            }
        }
        self.rows.append(&mut rows);
        Ok(())
    }

    /// The truth of RTSTRUCT and SEG files; what they leave out is said, because it is not judged.
    fn drawn(&self, id: &str, ct: &Ct, path: &Path) -> Result<Truth, Exit> {
        let taken = labels::read(path, ct, &self.args.by_hand)?.taken;
        for fact in taken.facts.iter().filter(|fact| fact.structure.is_none()) {
            eprintln!("{id}: {:?} is not judged: {}", fact.name, fact.remarks.join("; "));
        }
        let mut truth = Truth::of_masks(id, &ct.volume.grid, taken.masks);
        // A template made of this very CT would flatter the bank.
        truth.without.extend(
            ct.series
                .as_ref()
                .map(|series| teach::case_id(&series.series_instance_uid)),
        );
        nothing_known(truth, path)
    }

    fn worth(&self) -> Vec<Worth> {
        let of = |((group, n), tally): (&(&'static str, usize), &Tally)| VARIANTS[*n].worth(group, tally);
        self.tallies.iter().map(of).filter(|w| w.boxes > 0).collect()
    }
}

/// Every volume that is asked for; what is missing is said before anything takes long.
fn orders(args: &Args) -> Result<Vec<Order>, Exit> {
    if args.ct.len() != args.labels.len() {
        return Err(Exit::Usage(format!(
            "{} --ct and {} --labels: each CT needs its labels",
            args.ct.len(),
            args.labels.len()
        )));
    }
    let mut orders = Vec::new();
    for (ct, labels) in args.ct.iter().zip(&args.labels) {
        there(labels)?;
        orders.push(labelled_order(ct, labels)?);
    }
    let points = args.leave_one_out.as_deref().map(points_files).transpose()?;
    let points = points.unwrap_or_default();
    let ct_dir = args.ct_dir.clone().unwrap_or_default();
    let mut add = |group, truth: Truth| {
        orders.push(Order {
            group,
            id: truth.id.clone(),
            ct: ct_dir.join(format!("{}.nii.gz", truth.id)),
            known: Known::Points(truth),
        });
    };
    for placed in &points {
        add(LEFT_OUT, Truth::of_points(placed, &points));
    }
    if let Some(file) = &args.presence {
        for (volume, presence) in read_presence(file)? {
            if !points.iter().any(|p| p.volume == volume) {
                let placed = Placed {
                    volume,
                    presence,
                    ..Placed::default()
                };
                add(PRESENCE, Truth::of_points(&placed, &points));
            }
        }
    }
    if orders.is_empty() {
        return Err(Exit::Usage(
            "nothing to evaluate: give --ct and --labels, or --leave-one-out and --ct-dir".into(),
        ));
    }
    orders.iter().try_for_each(|order| there(&order.ct))?;
    Ok(orders)
}

fn labelled_order(ct: &Path, labels: &Path) -> Result<Order, Exit> {
    let (id, known) = if labels.extension().is_some_and(|extension| extension == "json") {
        let truth = Truth::of_points(&teach::read_points(labels)?, &[]);
        (truth.id.clone(), Known::Points(truth))
    } else {
        let folder = labels.parent().and_then(Path::file_name).unwrap_or(labels.as_os_str());
        (folder.to_string_lossy().into_owned(), Known::Labels(labels.to_owned()))
    };
    Ok(Order {
        group: LABELLED,
        id,
        ct: ct.to_owned(),
        known,
    })
}

fn there(path: &Path) -> Result<(), Exit> {
    if path.exists() {
        return Ok(());
    }
    Err(Exit::Missing(format!("{} is not there", path.display())))
}

/// Every points file of a folder, in the order of their names.
fn points_files(dir: &Path) -> Result<Vec<Placed>, Exit> {
    let entries = std::fs::read_dir(dir).map_err(|e| Exit::Missing(format!("{}: {e}", dir.display())))?;
    let mut files: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "json"));
    files.sort();
    if files.is_empty() {
        return Err(Exit::Missing(format!("{} holds no points file", dir.display())));
    }
    Ok(files.iter().map(|f| teach::read_points(f)).collect::<Result<_, _>>()?)
}

fn read_presence(file: &Path) -> Result<BTreeMap<String, BTreeMap<String, Presence>>, Exit> {
    let text = std::fs::read(file).map_err(|e| Exit::Missing(format!("{}: {e}", file.display())))?;
    serde_json::from_slice(&text).map_err(|e| Exit::Usage(format!("{}: {e}", file.display())))
}

fn labelled(id: &str, volume: &Volume, path: &Path) -> Result<Truth, Exit> {
    let names = teach::label_names(path).map_err(|error| Exit::Usage(error.to_string()))?;
    let (grid, labels) = nifti::read_labels(path).map_err(|error| Exit::Failed(error.to_string()))?;
    let labels = truth::onto(&volume.grid, &grid, labels);
    nothing_known(Truth::of_labels(id, &volume.grid, &labels, &names), path)
}

fn nothing_known(truth: Truth, path: &Path) -> Result<Truth, Exit> {
    if truth.masks.is_empty() {
        return Err(Exit::Failed(format!(
            "{} labels nothing that we know and that lies in the CT",
            path.display()
        )));
    }
    Ok(truth)
}

fn wanted(names: &[String], localiser: &Localiser) -> Result<Vec<&'static Structure>, Exit> {
    if names.is_empty() {
        return Ok(localiser.bank.structures());
    }
    let row = |name: &String| {
        let sought = structure::sought().find(|s| s.name == name);
        sought.ok_or_else(|| Exit::Usage(format!("no structure that can be located is called {name:?}")))
    };
    names.iter().map(row).collect()
}

fn put(path: &Path, bytes: &[u8]) -> Result<(), Exit> {
    std::fs::write(path, bytes).map_err(|e| Exit::Failed(format!("cannot write {}: {e}", path.display())))
}
