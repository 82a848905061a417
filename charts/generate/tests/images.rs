//! The archives of `hack/oci-image.sh`: as the OCI image specification has them, and the same from the same input.

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::Value;

/// Runs the script with `programs`; what it said, and the archive.
fn image(folder: &Path, name: &str, programs: &[&Path], out: &str) -> (Output, PathBuf) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../hack/oci-image.sh");
    let out = folder.join(out);
    let output = Command::new(script)
        .arg(name)
        .args(programs)
        .arg(&out)
        .env("LABELS", "b=second\na=first \"quoted\"")
        .env("ARCH", "amd64")
        .output()
        .expect("the script starts");
    (output, out)
}

/// A program of this text.
fn program(folder: &Path, text: &str) -> PathBuf {
    let path = folder.join("hello");
    fs::write(&path, text).expect("written");
    path
}

/// The archive, unpacked beside itself.
fn unpacked(archive: &Path) -> PathBuf {
    let folder = archive.with_extension("d");
    fs::create_dir(&folder).expect("a folder");
    let status = Command::new("tar")
        .arg("-xf")
        .arg(archive)
        .arg("-C")
        .arg(&folder)
        .status();
    assert!(status.expect("tar starts").success());
    folder
}

fn sha256(path: &Path) -> String {
    let output = Command::new("sha256sum")
        .arg(path)
        .output()
        .expect("sha256sum starts");
    String::from_utf8_lossy(&output.stdout)[..64].to_owned()
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).expect("a file")).expect("JSON")
}

/// The blob that a descriptor names, of the digest and size that it says.
fn blob(image: &Path, descriptor: &Value) -> PathBuf {
    let digest = descriptor["digest"].as_str().expect("a digest");
    let hex = digest.strip_prefix("sha256:").expect("SHA-256");
    let path = image.join("blobs/sha256").join(hex);
    assert_eq!(sha256(&path), hex);
    let size = fs::metadata(&path).expect("a blob").len();
    assert_eq!(descriptor["size"], size);
    path
}

#[test]
fn an_archive_is_an_image_that_names_its_program_its_user_and_its_labels() {
    let folder = tempfile::tempdir().expect("a folder");
    let hello = program(folder.path(), "not a real program\n");
    let (output, archive) = image(folder.path(), "hello:1", &[&hello], "hello.tar");
    assert!(output.status.success(), "{output:?}");
    let image = unpacked(&archive);

    let index = json(&image.join("index.json"));
    let descriptor = &index["manifests"][0];
    // containerd looks under this name and no shorter one.
    let name = &descriptor["annotations"]["io.containerd.image.name"];
    assert_eq!(name, "docker.io/library/hello:1");
    let manifest = json(&blob(&image, descriptor));
    let config = json(&blob(&image, &manifest["config"]));
    assert_eq!(config["config"]["User"], "65532:65532");
    assert_eq!(
        config["config"]["Entrypoint"],
        serde_json::json!(["/hello"])
    );
    assert_eq!(config["config"]["Labels"]["a"], "first \"quoted\"");

    let layer = blob(&image, &manifest["layers"][0]);
    let unzipped = folder.path().join("layer.tar");
    let output = Command::new("gzip").arg("-dc").arg(layer).output();
    fs::write(&unzipped, output.expect("gzip starts").stdout).expect("written");
    let diff = format!("sha256:{}", sha256(&unzipped));
    assert_eq!(config["rootfs"]["diff_ids"][0], diff);
    let root = unpacked(&unzipped);
    let there: BTreeSet<_> = fs::read_dir(&root)
        .expect("a root")
        .map(|entry| entry.expect("readable").file_name())
        .collect();
    assert_eq!(there, BTreeSet::from(["hello".into()]), "an empty base");
}

#[test]
fn the_same_program_gives_the_same_bytes_and_another_gives_others() {
    let folder = tempfile::tempdir().expect("a folder");
    let made = |text: &str, out: &str| {
        // Written anew: another time of change, the same content.
        let hello = program(folder.path(), text);
        let old =
            std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(out.len() as u64);
        let file = fs::File::options()
            .append(true)
            .open(&hello)
            .expect("opens");
        file.set_modified(old).expect("dated");
        let (output, archive) = image(folder.path(), "hello:1", &[&hello], out);
        assert!(output.status.success(), "{output:?}");
        fs::read(archive).expect("an archive")
    };
    let first = made("one\n", "a.tar");
    assert!(first == made("one\n", "again.tar"), "the same input");
    assert!(first != made("two\n", "other.tar"), "other input");
}

#[test]
fn what_would_not_start_on_an_empty_base_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    // This test is linked to libc.
    let own = env::current_exe().expect("a path");
    let (output, archive) = image(folder.path(), "hello:1", &[&own], "hello.tar");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && said.contains("dynamically"),
        "{said}"
    );
    assert!(!archive.exists(), "half an archive is left");

    let hello = program(folder.path(), "x");
    let (output, _) = image(folder.path(), "hello", &[&hello], "hello.tar");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("tag"), "without a tag: {said}");
}
