//! Writes `docs/reference`: run it from the repository's root.

use std::{fs, path::Path};

use anyhow::Context as _;

fn main() -> anyhow::Result<()> {
    let folder = Path::new("docs/reference");
    for (name, text) in sluice_docs::pages()? {
        let file = folder.join(name);
        fs::write(&file, text)
            .with_context(|| format!("cannot write {}: run from the root", file.display()))?;
    }
    Ok(())
}
