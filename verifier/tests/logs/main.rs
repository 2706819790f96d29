//! The catalogue of log lines against corpora with the classification that each line must get. The lines are written as their programs
//! write them, from their sources; they prove the matching, not that a future release words them the same.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking; outside of functions marked as tests the lint does not see that it is one"
)]

use std::{
    collections::BTreeSet,
    fs,
    io::Write as _,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::Path,
    process::Command,
};
use verifier::logs::{Catalogue, Class, Kind, classify};

fn corpora() -> Vec<(String, String)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/logs/corpus");
    let mut all = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        for line in fs::read_to_string(entry.unwrap().path())
            .unwrap()
            .lines()
            .filter(|line| !line.starts_with('#'))
        {
            let (want, line) = line.split_once('\t').unwrap();
            all.push((want.to_owned(), line.to_owned()));
        }
    }
    all
}

fn name(class: Class<'_>) -> String {
    match class {
        Class::Known(signature) => signature.id.clone(),
        Class::Unknown => "unknown".into(),
        Class::Nothing => "-".into(),
    }
}

#[test]
fn every_line_gets_its_classification_whatever_wraps_it() {
    let catalogue = Catalogue::built_in().unwrap();
    let mut wrong = Vec::new();
    for (want, line) in corpora() {
        let json = serde_json::json!({ "log": format!("{line}\n"), "stream": "stderr" }).to_string();
        for wrapped in [line.clone(), format!("2026-11-20T06:25:11.123456789Z stderr F {line}"), json] {
            let got = name(classify(&catalogue, &wrapped));
            if got != want {
                wrong.push(format!("{got} instead of {want}: {wrapped}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_signature_has_a_line_and_there_are_enough_of_them() {
    let catalogue = Catalogue::built_in().unwrap();
    let seen: BTreeSet<String> = corpora().into_iter().map(|(want, _)| want).collect();
    let missing: Vec<&str> = catalogue
        .all()
        .iter()
        .map(|s| s.id.as_str())
        .filter(|id| !seen.contains(*id))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
    let ids: BTreeSet<&str> = catalogue.all().iter().map(|s| s.id.as_str()).collect();
    assert_eq!(ids.len(), catalogue.all().len());
    let harmless = catalogue
        .all()
        .iter()
        .filter(|s| matches!(s.kind, Kind::Benign | Kind::Misleading))
        .count();
    println!("{} signatures, {harmless} of them benign or misleading", ids.len());
    assert!(ids.len() >= 60 && harmless >= 15);
    assert!(seen.contains("unknown") && seen.contains("-"));
}

#[test]
fn texts_are_sentences_and_benign_lines_name_no_cause() {
    for s in Catalogue::built_in().unwrap().all() {
        assert!(s.meaning.ends_with('.') && s.next.ends_with('.'), "{}", s.id);
        assert!(s.kind != Kind::Benign || s.cause.is_none(), "{}", s.id);
    }
}

fn run(arguments: &[&str], input: &[u8]) -> (Option<i32>, String, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_verifier"))
        .args(arguments)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // A program that refuses its input does not read it: the pipe may be closed.
    let _ = child.stdin.take().unwrap().write_all(input);
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn the_command_says_what_lines_mean() {
    let log = b"2026-11-20 06:25:11.123 [WARNING][71] felix/vxlan_mgr.go 1: Failed to configure VXLAN tunnel device, retrying... error=operation not supported\n\
                2026-11-20 06:26:11.123 [WARNING][71] felix/int_dataplane.go 1: modprobe: FATAL: Module nf_conntrack_proto_sctp not found\n\
                2026-11-20 06:27:11.123 [ERROR][71] felix/x.go 1: never heard of\n";
    let (status, out, _) = run(&["logs", "-"], log);
    assert_eq!(status, Some(1));
    for part in ["kernel-module-missing", "never heard of", "Means nothing: 1 lines of 1 kinds"] {
        assert!(out.contains(part), "{part}: {out}");
    }
    let (status, out, _) = run(
        &["logs", "-", "--output", "json"],
        b"2026-11-20 06:27:11.123 [ERROR][71] felix/x.go 1: never heard of\n",
    );
    assert_eq!(status, Some(3));
    let value: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(value["schema"], "dataplane-verifier/logs/v1");
    assert_eq!(run(&["logs", "-"], b"all is well\n").0, Some(0));
    // Nothing to read is not nothing to complain of: `kubectl logs … | verifier logs -` when kubectl fails.
    let (status, out, _) = run(&["logs", "-"], b"");
    assert_eq!(status, Some(3), "{out}");
    assert!(out.contains("proves nothing"), "{out}");
}

#[test]
fn bad_input_is_one_clear_line() {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let binary = directory.join(format!("binary-{}", std::process::id()));
    fs::write(&binary, (0..4096_u32).map(|i| (i % 31) as u8).collect::<Vec<u8>>()).unwrap();
    for path in [binary.to_str().unwrap(), "/no/such/log", "/"] {
        let (status, out, err) = run(&["logs", path], b"");
        assert_eq!((status, out.as_str()), (Some(64), ""), "{path}");
        assert_eq!(err.lines().count(), 1, "{err}");
    }
    fs::remove_file(binary).unwrap();
    // Of an enormous file the end is read, and that is said. Sparse: it takes no room.
    let enormous = directory.join(format!("enormous-{}", std::process::id()));
    let mut file = fs::File::create(&enormous).unwrap();
    file.set_len(20 << 30).unwrap();
    std::io::Seek::seek(&mut file, std::io::SeekFrom::End(0)).unwrap();
    file.write_all(b"\nbird: I found another BIRD running.\n").unwrap();
    let (status, out, _) = run(&["logs", "--last-mib", "1", enormous.to_str().unwrap()], b"");
    assert_eq!(status, Some(1), "{out}");
    assert!(out.contains("bird-second") && out.contains("were not read"), "{out}");
    fs::remove_file(enormous).unwrap();
}

#[test]
fn a_rotated_and_compressed_log_is_read() {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("log-{}.gz", std::process::id()));
    let mut packed = flate2::write::GzEncoder::new(fs::File::create(&path).unwrap(), flate2::Compression::fast());
    packed.write_all(b"bird: I found another BIRD running.\n").unwrap();
    packed.finish().unwrap();
    let (status, out, _) = run(&["logs", path.to_str().unwrap()], b"");
    assert_eq!(status, Some(1), "{out}");
    fs::remove_file(path).unwrap();
}

#[test]
fn a_log_without_permission_is_one_line_and_the_others_are_read() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: only root can take a permission away from somebody else");
        return;
    }
    // Where an account without rights can get to.
    let directory = std::env::temp_dir().join(format!("logs-permission-{}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    let (closed, open) = (directory.join("closed.log"), directory.join("open.log"));
    for path in [&closed, &open] {
        fs::write(path, "bird: I found another BIRD running.\n").unwrap();
    }
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o600)).unwrap();
    let nobody = |files: &[&Path]| {
        let output = Command::new(env!("CARGO_BIN_EXE_verifier"))
            .arg("logs")
            .args(files)
            .uid(65_534)
            .gid(65_534)
            .output()
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let (status, out, err) = nobody(&[&closed]);
    assert_eq!((status, out.as_str(), err.lines().count()), (Some(64), "", 1), "{err}");
    assert!(err.contains("ermission denied"), "{err}");
    let (status, out, _) = nobody(&[&closed, &open]);
    assert_eq!(status, Some(1), "{out}");
    assert!(
        out.contains("bird-second") && out.contains("Could not be read whole") && out.contains("closed.log"),
        "{out}"
    );
    fs::remove_dir_all(directory).unwrap();
}
