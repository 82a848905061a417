//! Writes every file of `charts/` and `deploy/` that is made from something else: `charts REPOSITORY`.

use std::{env, path::PathBuf};

use anyhow::{Context, Result};
use sluice_charts::{Helm, made_from_charts, made_from_types, write};

fn main() -> Result<()> {
    let repository = env::args_os()
        .nth(1)
        .map(PathBuf::from)
        .context("usage: charts REPOSITORY")?;
    // Helm reads the schema from the disk: it comes first.
    write(&repository, &made_from_types()?)?;
    write(&repository, &made_from_charts(&repository, &Helm::find()?)?)
}
