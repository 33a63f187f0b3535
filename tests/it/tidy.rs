//! The architecture page of the crate stays true: who may import whom, and which crate is named where.

use std::fs;
use std::path::{Path, PathBuf};

/// Modules from the innermost out; each may import from those before it and from its own layer.
const LAYERS: [&[&str]; 11] = [
    &["domain"],
    &["dialect"],
    &["clock", "config", "store"],
    &["certificate"],
    &["lease"],
    &["upstream"],
    &["actors"],
    &["http"],
    &["app"],
    &["command", "demo"],
    &["main"],
];

/// Words that only some files may contain: the word, and the beginnings of the paths of those files.
const ONLY: [(&str, &[&str]); 8] = [
    ("diesel", &["store"]),
    ("Sqlite", &["store/sqlite"]),
    ("awc::", &["upstream"]),
    ("actix_web_actors", &["http/session.rs"]),
    ("Instant::now", &["clock.rs", "upstream"]),
    ("SystemTime", &["clock.rs"]),
    ("Utc::now", &["clock.rs"]),
    ("env::var", &["config.rs"]),
];

/// Words that must not occur in the pure code.
const NOT_IN_PURE_CODE: [&str; 6] = ["actix", "tokio", "async ", "std::fs", "std::net", "log::"];

/// All files and folders of the top level, except dotfiles and what git ignores.
const TOP_LEVEL: [&str; 13] = [
    "CHANGELOG.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "Makefile",
    "README.md",
    "benches",
    "config",
    "diesel.toml",
    "migrations",
    "src",
    "static",
    "tests",
];

struct Source {
    /// Relative to `src`.
    path: String,
    /// The text without tests and comments.
    code: String,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path: PathBuf = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("tests.rs") {
                let text = fs::read_to_string(&path).expect("a source");
                let code = text.split("#[cfg(test)]").next().unwrap_or_default();
                let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
                let path = path.strip_prefix(&root).expect("below src").display().to_string();
                found.push(Source { path, code: lines.collect::<Vec<_>>().join("\n") });
            }
        }
    }
    assert!(found.len() > 30, "the sources are found");
    found
}

fn module(path: &str) -> &str {
    path.split(['/', '.']).next().unwrap_or_default()
}

fn layer(module: &str) -> usize {
    LAYERS.iter().position(|layer| layer.contains(&module)).unwrap_or_else(|| panic!("`{module}` has no layer"))
}

/// Returns the modules that a text names after `crate::` or `leaseway::`.
fn imports(code: &str) -> Vec<&str> {
    let starts = ["crate::", "leaseway::"].into_iter().flat_map(|root| code.match_indices(root));
    let names = starts.map(|(at, root)| &code[at + root.len()..]);
    names.filter_map(|rest| rest.split(|letter: char| !letter.is_alphanumeric() && letter != '_').next()).collect()
}

#[test]
fn modules_import_only_from_layers_below() {
    for source in sources().iter().filter(|source| source.path != "lib.rs") {
        let own = module(&source.path);
        for imported in imports(&source.code).into_iter().filter(|imported| !imported.is_empty()) {
            assert!(layer(imported) <= layer(own), "{} imports {imported}", source.path);
        }
    }
}

#[test]
fn crates_and_clocks_are_named_only_where_they_belong() {
    for source in sources() {
        for (word, places) in ONLY {
            let allowed = places.iter().any(|place| source.path.starts_with(place));
            assert!(allowed || !source.code.contains(word), "{} names {word}", source.path);
        }
    }
}

#[test]
fn domain_and_dialect_are_pure() {
    let is_pure = |source: &&Source| source.path.starts_with("domain/") || source.path.starts_with("dialect/");
    for source in sources().iter().filter(is_pure) {
        for word in NOT_IN_PURE_CODE {
            assert!(!source.code.contains(word), "{} names {word}", source.path);
        }
    }
}

#[test]
fn an_actor_names_anothers_message_but_never_the_actor() {
    const ACTORS: [(&str, &str); 8] = [
        ("Registry", "registry"),
        ("Keyring", "keyring"),
        ("LoadManager", "load_manager"),
        ("TpsTracker", "tps_tracker"),
        ("HistoryRecorder", "history_recorder"),
        ("Persistence", "persistence"),
        ("EventHub", "event_hub"),
        ("CertificateKeeper", "certificate_keeper"),
    ];
    for source in sources().iter().filter(|source| source.path.starts_with("actors/")) {
        for (actor, home) in ACTORS {
            let at_home = source.path.starts_with(&format!("actors/{home}"));
            let named = source.code.split(|letter: char| !letter.is_alphanumeric()).any(|word| word == actor);
            // Registry awaits Persistence: the one exception.
            let exception = source.path.starts_with("actors/registry") && actor == "Persistence";
            assert!(at_home || exception || !named, "{} names the actor {actor}", source.path);
        }
    }
}

#[test]
fn every_file_says_what_it_is_for() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for source in sources().iter().filter(|source| source.path != "store/schema.rs") {
        let text = fs::read_to_string(root.join(&source.path)).expect("a source");
        assert!(text.starts_with("//! "), "{} does not say what it is for", source.path);
    }
}

#[test]
fn nothing_strays_at_the_top_level() {
    let is_ignored = |name: &str| name.starts_with('.') || name == "target" || name.contains(".db");
    for entry in fs::read_dir(env!("CARGO_MANIFEST_DIR")).expect("a folder") {
        let name = entry.expect("an entry").file_name().to_string_lossy().into_owned();
        assert!(is_ignored(&name) || TOP_LEVEL.contains(&name.as_str()), "{name} does not belong there");
    }
}
