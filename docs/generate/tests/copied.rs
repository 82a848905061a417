//! What a reader copies must be accepted as it stands: every manifest under `examples/`, and every YAML block
//! of the README and of `docs/`.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use aws_lc_rs::hmac;
use sluice_crds::manifest::{Parsed, parse};
use sluice_translate::{Change, Engine, GroupId, Pods, Settings, manifests::object_of};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Every file below `folder` with that ending.
fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder of the repository") {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            found.extend(files(&path, ending));
        } else if path.extension().is_some_and(|end| end == ending) {
            found.push(path);
        }
    }
    found
}

fn read(file: &Path) -> String {
    fs::read_to_string(file).expect("a text file of the repository")
}

/// The object count by kind; fails with every finding.
fn sound(texts: impl IntoIterator<Item = (String, String)>) -> BTreeMap<&'static str, usize> {
    let (mut kinds, mut problems) = (BTreeMap::new(), Vec::new());
    for (name, text) in texts {
        let Parsed { objects, findings } = parse(&name, &text);
        problems.extend(findings.iter().map(ToString::to_string));
        for located in objects {
            *kinds.entry(located.object.kind()).or_default() += 1;
        }
    }
    assert!(problems.is_empty(), "{problems:#?}");
    kinds
}

#[test]
fn every_example_is_accepted() {
    let kinds = sound(
        files(&root().join("examples"), "yaml")
            .into_iter()
            .map(|file| (file.display().to_string(), read(&file))),
    );
    let seen = [
        "ApiRoute",
        "RateLimitPolicy",
        "ShardSet",
        "SluiceConfig",
        "Secret",
        "Service",
        "EndpointSlice",
    ];
    for kind in seen {
        assert!(kinds.contains_key(kind), "no example of {kind}: {kinds:?}");
    }
}

#[test]
fn the_quickstart_translates_without_a_finding() {
    let mut engine = Engine::new(Settings {
        hash_key: hmac::Key::new(hmac::HMAC_SHA256, &[7; 32]),
        operator_namespace: "sluice-system".into(),
        pods: Pods::FromSlices,
    });
    let folders = ["base", "local"].map(|name| root().join("examples/quickstart").join(name));
    let files = folders.iter().flat_map(|folder| files(folder, "yaml"));
    let objects = files.flat_map(|file| parse(&file.display().to_string(), &read(&file)).objects);
    engine.apply(objects.map(|located| Change::Upsert(object_of(&located.object))));
    let findings: Vec<_> = engine
        .troubled()
        .into_iter()
        .flat_map(|id| engine.findings(id))
        .collect();
    assert!(findings.is_empty(), "{findings:#?}");
    // Both Services and the edge carry policy; the shards' members are forwarded to and carry none.
    let routes = |group: &&GroupId| {
        let units = engine.group_units(group).into_iter().flatten();
        units
            .filter(|(name, _)| name.as_str().starts_with("route/"))
            .count()
            == 1
    };
    assert_eq!(engine.groups().filter(routes).count(), 3);
}

#[test]
fn every_yaml_block_of_the_documentation_is_accepted() {
    let mut pages = files(&root().join("docs"), "md");
    pages.extend(files(&root().join("examples"), "md"));
    pages.push(root().join("README.md"));
    let blocks = pages.iter().flat_map(|page| {
        let name = page.display().to_string();
        yaml_blocks(&read(page))
            .into_iter()
            .map(move |block| (name.clone(), block))
    });
    let kinds = sound(blocks);
    assert!(
        kinds.contains_key("ApiRoute"),
        "the README explains one: {kinds:?}"
    );
}

/// The fenced YAML of a page, each block below as many empty lines as the page has above it, so that a finding
/// names the page's own line.
fn yaml_blocks(page: &str) -> Vec<String> {
    let (mut blocks, mut current) = (Vec::new(), None::<String>);
    for (number, line) in page.lines().enumerate() {
        match (&mut current, line) {
            (None, "```yaml") => current = Some("\n".repeat(number + 1)),
            (Some(_), "```") => blocks.extend(current.take()),
            (Some(block), line) => {
                block.push_str(line);
                block.push('\n');
            }
            (None, _) => {}
        }
    }
    blocks
}

#[test]
fn a_block_keeps_its_line_and_a_field_that_is_not_there_is_found() {
    let page = "text\n```yaml\napiVersion: sluice.dev/v1alpha1\nkind: ApiRoute\nmetadata: {name: a}\nspec: {nonsense: 1}\n```\n";
    let blocks = yaml_blocks(page);
    let findings = parse("page", &blocks[0]).findings;
    assert_eq!((blocks.len(), findings.len()), (1, 1), "{findings:?}");
    assert_eq!(findings[0].line, 6);
}
