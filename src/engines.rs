//! The resident models as the configuration names them: read, verified, loaded once.

use crate::config::Config;
use crate::inference::model::Manifest;
use crate::inference::runtime::{Choice, InferenceError, Runtime};
use crate::localise::Localiser;
use crate::localise::bank::Bank;
use crate::pipeline::Engines;
use crate::segment::Segmenter;

/// Name of the template bank in the localiser's directory.
pub const BANK: &str = "bank.bin";

/// The runtime library, with the providers that `[inference]` asks for.
pub fn runtime(config: &Config) -> Result<Runtime, InferenceError> {
    let written = &config.written.inference;
    let choice = Choice {
        providers: written.providers.clone(),
        strict: written.strict,
        device: written.device,
        fp16: written.fp16,
        engine_cache: written.engine_cache.clone(),
        threads: written.threads,
    };
    Runtime::load(&written.library, &choice)
}

/// The manifest of a model by its directory name under `[models] dir`.
pub fn manifest(config: &Config, name: &str) -> Result<Manifest, InferenceError> {
    let models = &config.written.models;
    Manifest::read(&models.dir.join(name), &models.weights_dir)
}

/// The site's own templates; empty when it taught none.
pub fn own_templates(config: &Config) -> Result<Bank, InferenceError> {
    let path = &config.written.models.templates;
    match path.try_exists() {
        Ok(false) => Ok(Bank::default()),
        _ => Bank::read(path),
    }
}

/// The configured localiser with the templates that come with it and those of the site.
///
/// Own templates that another model made are left out with a warning, and `medlsamd check` says so too: an update of the localiser
/// must not keep a hospital's daemon from starting.
pub fn localiser(config: &Config, runtime: &Runtime) -> Result<Localiser, InferenceError> {
    let manifest = manifest(config, &config.written.models.localiser)?;
    let mut bank = Bank::read(&manifest.dir.join(BANK))?;
    if let Err(error) = own_templates(config).and_then(|own| bank.join(own)) {
        let path = config.written.models.templates.display();
        tracing::warn!(templates = %path, %error, "the site's own templates are not used");
    }
    Localiser::load(runtime, manifest, bank)
}

/// The configured segmenter.
pub fn segmenter(config: &Config, runtime: &Runtime) -> Result<Segmenter, InferenceError> {
    Segmenter::load(runtime, manifest(config, &config.written.models.segmenter)?)
}

/// Loads everything a job needs. Seconds and a few hundred MB; once per process.
pub fn load(config: &Config, runtime: &Runtime) -> Result<Engines, InferenceError> {
    Ok(Engines {
        localiser: localiser(config, runtime)?,
        segmenter: segmenter(config, runtime)?,
    })
}
