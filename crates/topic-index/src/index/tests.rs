//! The index against [`TopicFilter::matches`], and its behaviour at the edges.
//!
//! Does not test the walk itself, only what goes in and comes out.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

type Model = BTreeMap<(String, u8), u32>;

fn topic(text: &str) -> TopicName {
    TopicName::new(text).unwrap()
}

fn filter(text: &str) -> TopicFilter {
    TopicFilter::new(text).unwrap()
}

fn matched(index: &TopicIndex<u8, u32>, name: &TopicName) -> Vec<(u8, u32)> {
    let mut found = Vec::new();
    index.matches(name, |key, value| found.push((key, *value)));
    found.sort_unstable();
    found
}

fn level() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "",
        "a",
        "b",
        "ab",
        "$",
        "$a",
        "a level longer than twenty-two bytes",
    ])
}

fn any_topic() -> impl Strategy<Value = TopicName> {
    prop::collection::vec(level(), 1..6)
        .prop_map(|levels| levels.join("/"))
        .prop_filter_map("a topic is not empty", |text| TopicName::new(text).ok())
}

fn any_filter() -> impl Strategy<Value = TopicFilter> {
    let levels = prop::collection::vec(prop_oneof![3 => level(), 2 => Just("+")], 0..6);
    let share = prop::sample::select(vec!["", "", "$share/g/"]);
    (share, levels, any::<bool>())
        .prop_map(|(share, mut levels, open)| {
            levels.extend(open.then_some("#"));
            format!("{share}{}", levels.join("/"))
        })
        .prop_filter_map("a filter is not empty", |text| TopicFilter::new(text).ok())
}

#[derive(Clone, Debug)]
enum Change {
    Insert(TopicFilter, u8, u32),
    Remove(prop::sample::Index),
    RemoveUnknown(TopicFilter, u8),
}

fn any_change() -> impl Strategy<Value = Change> {
    prop_oneof![
        3 => (any_filter(), 0..4u8, any::<u32>())
            .prop_map(|(filter, key, value)| Change::Insert(filter, key, value)),
        2 => any::<prop::sample::Index>().prop_map(Change::Remove),
        1 => (any_filter(), 0..4u8).prop_map(|(filter, key)| Change::RemoveUnknown(filter, key)),
    ]
}

fn apply(index: &mut TopicIndex<u8, u32>, model: &mut Model, change: Change) {
    match change {
        Change::Insert(filter, key, value) => {
            let replaced = model.insert((filter.filter().to_owned(), key), value);
            assert_eq!(index.insert(&filter, key, value), replaced);
        }
        Change::Remove(at) => {
            let Some((text, key)) = model.keys().nth(at.index(model.len().max(1))).cloned() else {
                return;
            };
            let removed = model.remove(&(text.clone(), key));
            assert_eq!(index.remove(&filter(&text), &key), removed);
        }
        Change::RemoveUnknown(filter, key) => {
            let removed = model.remove(&(filter.filter().to_owned(), key));
            assert_eq!(index.remove(&filter, &key), removed);
        }
    }
}

fn check(index: &TopicIndex<u8, u32>, model: &Model, topics: &[TopicName]) {
    let mut pairs: Vec<_> =
        index.iter().map(|(text, key, value)| ((text.to_owned(), key), *value)).collect();
    pairs.sort_unstable();
    assert_eq!(pairs, model.clone().into_iter().collect::<Vec<_>>());
    assert_eq!(index.len(), model.len());
    assert_eq!(index.is_empty(), model.is_empty());
    let mut filters: Vec<_> = model.keys().map(|(text, _)| text).collect();
    filters.dedup();
    assert_eq!(index.filters(), filters.len());
    for name in topics {
        let expected = model.iter().filter(|((text, _), _)| filter(text).matches(name));
        let mut expected: Vec<_> = expected.map(|((_, key), value)| (*key, *value)).collect();
        expected.sort_unstable();
        assert_eq!(matched(index, name), expected, "{name}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn agrees_with_the_reference_after_any_changes(
        changes in prop::collection::vec(any_change(), 1..80),
        topics in prop::collection::vec(any_topic(), 12),
    ) {
        let mut index = TopicIndex::new();
        let mut model = Model::new();
        for change in changes {
            apply(&mut index, &mut model, change);
        }
        check(&index, &model, &topics);
    }

    #[test]
    fn lookup_finds_exactly_the_subscribers_of_one_filter(
        filters in prop::collection::vec((any_filter(), 0..4u8), 1..30),
        other in any_filter(),
    ) {
        let mut index = TopicIndex::new();
        for (at, (filter, key)) in filters.iter().enumerate() {
            index.insert(filter, *key, at);
        }
        for wanted in filters.iter().map(|(filter, _)| filter).chain([&other]) {
            let mut found: Vec<_> = index.lookup(wanted).map(|(key, _)| key).collect();
            found.sort_unstable();
            let same = filters.iter().filter(|(filter, _)| filter.filter() == wanted.filter());
            let mut keys: Vec<_> = same.map(|(_, key)| *key).collect();
            keys.sort_unstable();
            keys.dedup();
            prop_assert_eq!(found, keys);
        }
    }

    #[test]
    fn nothing_is_kept_once_all_but_one_filter_are_removed(
        filters in prop::collection::vec(any_filter(), 1..60),
        kept in any_filter(),
    ) {
        let mut index = TopicIndex::new();
        index.insert(&kept, 0, 0);
        for filter in &filters {
            index.insert(filter, 1, 0);
        }
        for filter in &filters {
            index.remove(filter, &1);
        }
        prop_assert_eq!(index.filters(), 1);
        let (nodes, edges) = index.wildcards.size();
        // The filter that is left keeps at most the nodes of its own levels.
        prop_assert!(nodes <= kept.levels().count() && edges <= kept.levels().count());
        index.remove(&kept, &0);
        prop_assert_eq!(index.wildcards.size(), (0, 0));
        prop_assert!(index.is_empty() && index.exact.is_empty());
    }
}

#[test]
fn wildcards_in_the_first_level_do_not_match_a_topic_that_begins_with_a_dollar() {
    let mut index = TopicIndex::new();
    for (key, text) in ["#", "+/a", "+/#", "$SYS/#", "$SYS/+", "/#"].into_iter().enumerate() {
        index.insert(&filter(text), key as u8, 0);
    }
    assert_eq!(matched(&index, &topic("$SYS/a")), [(3, 0), (4, 0)]);
    assert_eq!(matched(&index, &topic("$SYS")), [(3, 0)]);
    assert_eq!(matched(&index, &topic("b/a")), [(0, 0), (1, 0), (2, 0)]);
}

#[test]
fn a_subscriber_comes_once_for_each_filter_that_matches() {
    let mut index = TopicIndex::new();
    for (value, text) in ["a/b", "a/+", "a/#", "#"].into_iter().enumerate() {
        index.insert(&filter(text), 7, value as u32);
    }
    assert_eq!(matched(&index, &topic("a/b")), [(7, 0), (7, 1), (7, 2), (7, 3)]);
}

#[test]
fn the_share_name_is_not_part_of_the_filter() {
    let mut index = TopicIndex::new();
    assert_eq!(index.insert(&filter("$share/g/a/+"), 1, 1), None);
    assert_eq!(index.insert(&filter("a/+"), 1, 2), Some(1));
    assert_eq!(index.remove(&filter("$share/other/a/+"), &1), Some(2));
    assert!(index.is_empty());
}

#[test]
fn a_hundred_thousand_subscribers_of_one_filter_come_and_go() {
    for text in ["a/+/c", "a/b/c"] {
        let (mut index, all) = (TopicIndex::new(), filter(text));
        for key in 0..100_000u32 {
            assert_eq!(index.insert(&all, key, key), None);
        }
        assert_eq!((index.len(), index.filters()), (100_000, 1));
        for key in (0..100_000).filter(|key| key % 1000 != 0) {
            assert_eq!(index.remove(&all, &key), Some(key));
        }
        let mut left = Vec::new();
        index.matches(&topic("a/b/c"), |key, value| left.push((key, *value)));
        left.sort_unstable();
        assert_eq!(left, (0..100).map(|key| (key * 1000, key * 1000)).collect::<Vec<_>>());
        for key in 0..100_000 {
            index.remove(&all, &key);
        }
        assert!(index.is_empty() && index.lookup(&all).next().is_none());
    }
}

#[test]
fn filters_as_deep_as_the_wire_allows_are_matched_and_removed() {
    let slashes = "/".repeat(32_000);
    let deep = topic(&slashes);
    let texts = [
        format!("{slashes}+"),
        format!("{slashes}#"),
        format!("{slashes}a/+"),
        "+/".repeat(32_000) + "+",
        "+/".repeat(32_000) + "#",
        "+/".repeat(31_999) + "/#",
        "+/".repeat(32_000) + "a",
    ];
    let mut index = TopicIndex::new();
    for (key, text) in texts.iter().enumerate() {
        index.insert(&filter(text), key as u8, 0);
    }
    assert_eq!(
        matched(&index, &deep).iter().map(|pair| pair.0).collect::<Vec<_>>(),
        [0, 1, 3, 4, 5]
    );
    let longest = topic(&"/".repeat(65_535));
    assert_eq!(matched(&index, &longest).iter().map(|pair| pair.0).collect::<Vec<_>>(), [1, 4, 5]);
    for (key, text) in texts.iter().enumerate() {
        assert_eq!(index.remove(&filter(text), &(key as u8)), Some(0));
    }
    assert_eq!(index.wildcards.size(), (0, 0));
}

#[test]
fn every_mix_of_plus_and_literal_is_visited_once() {
    let mut index = TopicIndex::new();
    for mix in 0..1u32 << 12 {
        let levels = (0..12).map(|bit| if mix >> bit & 1 == 0 { "+" } else { "a" });
        index.insert(&filter(&levels.collect::<Vec<_>>().join("/")), mix, ());
    }
    let mut seen = Vec::new();
    index.matches(&topic(&["a"; 12].join("/")), |key, ()| seen.push(key));
    seen.sort_unstable();
    assert_eq!(seen, (0..1 << 12).collect::<Vec<_>>());
}

#[test]
fn a_filter_alone_in_its_branch_costs_no_node() {
    let mut index = TopicIndex::new();
    for number in 0..1000u32 {
        index.insert(&filter(&format!("site/+/dev/{number}/state/#")), number, ());
    }
    // site, + and dev.
    assert_eq!(index.wildcards.size(), (3, 1002));
}
