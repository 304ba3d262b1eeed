//! The seed corpus of the fuzz target: made of the good vectors, and run here as well.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::{env, fs};

use mqtt_codec::Version;

use crate::{oracle, vectors};

fn folder() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "fuzz", "corpus", "decode"].iter().collect()
}

/// One stream for each version and packet type, and one for a server, which needs a CONNECT first.
fn seeds() -> BTreeMap<String, Vec<u8>> {
    let mut seeds = BTreeMap::<String, Vec<u8>>::new();
    for (version, chosen, name) in
        [(Version::V3_1, 1, "3.1"), (Version::V3_1_1, 2, "3.1.1"), (Version::V5, 3, "5")]
    {
        let good = vectors::good().filter(|(of, _)| *of == version);
        for (_, bytes) in good {
            let kind = bytes.first().map_or(0, |first| first >> 4);
            let seed =
                seeds.entry(format!("seed-{name}-type-{kind:02}")).or_insert_with(|| vec![chosen]);
            seed.extend_from_slice(&bytes);
            seeds
                .entry(format!("seed-{name}-server"))
                .or_insert_with(|| vec![0])
                .extend_from_slice(&bytes);
        }
    }
    seeds
}

#[test]
fn seeds_are_made_of_the_good_vectors() {
    let update = env::var_os("UPDATE_CORPUS").is_some();
    for (name, bytes) in seeds() {
        let path = folder().join(&name);
        if update {
            fs::create_dir_all(folder()).unwrap();
            fs::write(&path, &bytes).unwrap();
        }
        let kept = fs::read(&path).unwrap_or_default();
        assert!(kept == bytes, "{name} is outdated: run this test with UPDATE_CORPUS=1");
    }
}

#[test]
fn corpus_is_decoded_without_panic() {
    let mut count = 0;
    for entry in fs::read_dir(folder()).unwrap() {
        oracle::check_chosen_stream(&fs::read(entry.unwrap().path()).unwrap());
        count += 1;
    }
    assert!(count >= seeds().len());
}
