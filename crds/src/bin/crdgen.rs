//! Writes the CustomResourceDefinitions as YAML: `crdgen FOLDER`.

use std::{env, error::Error, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    let folder = env::args_os()
        .nth(1)
        .map(PathBuf::from)
        .ok_or("usage: crdgen FOLDER (in this repository: crds/yaml)")?;
    fs::create_dir_all(&folder)?;
    for (name, yaml) in sluice_crds::crd::files()? {
        fs::write(folder.join(name), yaml)?;
    }
    Ok(())
}
