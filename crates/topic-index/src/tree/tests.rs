//! The tree against [`TopicFilter::matches`], whole and in pages.
//!
//! Does not test where a look-up seeks, only what it finds and how many topics it looks at.

use proptest::prelude::*;

use super::*;

fn topic(text: &str) -> TopicName {
    TopicName::new(text).unwrap()
}

fn filter(text: &str) -> TopicFilter {
    TopicFilter::new(text).unwrap()
}

fn tree_of(topics: &[TopicName]) -> TopicTree<String> {
    let mut tree = TopicTree::new();
    for name in topics {
        tree.insert(name, name.to_string());
    }
    tree
}

fn matched(tree: &TopicTree<String>, filter: &TopicFilter) -> Vec<String> {
    let mut found = Vec::new();
    tree.matches(filter, |topic, value| {
        assert_eq!(topic, value);
        found.push(value.clone());
    });
    found
}

/// Reads all pages, and changes nothing in between.
fn paged(tree: &TopicTree<String>, filter: &TopicFilter, limit: usize) -> Vec<String> {
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let mut page = tree.matches_after(filter, after.as_ref(), limit);
        let before = found.len();
        found.extend(page.by_ref().map(|(topic, _)| topic.to_string()));
        assert!(found.len() - before <= limit);
        after = page.cursor();
        if after.is_none() {
            return found;
        }
    }
}

fn by_levels(topics: &[TopicName], filter: &TopicFilter) -> Vec<String> {
    let mut expected: Vec<_> = topics.iter().filter(|name| filter.matches(name)).collect();
    expected.sort_unstable_by_key(|name| name.levels().collect::<Vec<_>>());
    expected.dedup();
    expected.into_iter().map(TopicName::to_string).collect()
}

fn level() -> impl Strategy<Value = &'static str> {
    // '!' and '-' stand before the slash in the order of bytes, '$' and '%' around the `$` rule.
    prop::sample::select(vec![
        "",
        "a",
        "b",
        "aa",
        "a-",
        "!",
        "$",
        "$a",
        "%",
        "\u{1}",
        "longer level",
    ])
}

fn any_topic() -> impl Strategy<Value = TopicName> {
    prop::collection::vec(level(), 1..5)
        .prop_map(|levels| levels.join("/"))
        .prop_filter_map("a topic is not empty", |text| TopicName::new(text).ok())
}

fn any_filter() -> impl Strategy<Value = TopicFilter> {
    let levels = prop::collection::vec(prop_oneof![1 => level(), 1 => Just("+")], 0..5);
    (levels, any::<bool>())
        .prop_map(|(mut levels, open)| {
            levels.extend(open.then_some("#"));
            levels.join("/")
        })
        .prop_filter_map("a filter is not empty", |text| TopicFilter::new(text).ok())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn agrees_with_the_reference_in_the_order_of_levels(
        topics in prop::collection::vec(any_topic(), 1..150),
        filters in prop::collection::vec(any_filter(), 8),
        limit in 1..5usize,
    ) {
        let tree = tree_of(&topics);
        for filter in &filters {
            let expected = by_levels(&topics, filter);
            prop_assert_eq!(&matched(&tree, filter), &expected, "{}", filter);
            prop_assert_eq!(&paged(&tree, filter, limit), &expected, "{}", filter);
        }
    }

    #[test]
    fn agrees_with_a_map_after_any_changes(
        changes in prop::collection::vec((any_topic(), any::<bool>(), any::<u32>()), 1..200),
    ) {
        let (mut tree, mut model) = (TopicTree::new(), BTreeMap::new());
        for (topic, insert, value) in changes {
            if insert {
                prop_assert_eq!(tree.insert(&topic, value), model.insert(topic, value));
            } else {
                prop_assert_eq!(tree.remove(&topic), model.remove(&topic));
            }
        }
        prop_assert_eq!(tree.len(), model.len());
        prop_assert_eq!(tree.is_empty(), model.is_empty());
        prop_assert_eq!(tree.iter().count(), model.len());
        for (topic, value) in &model {
            prop_assert_eq!(tree.lookup(topic), Some(value));
        }
    }
}

#[test]
fn topics_that_come_and_go_between_pages_disturb_no_other() {
    let mut tree = TopicTree::new();
    for number in 0..100 {
        tree.insert(&topic(&format!("a/{number:03}/x")), number);
    }
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let wanted = filter("a/+/x");
        let mut page = tree.matches_after(&wanted, after.as_ref(), 7);
        found.extend(page.by_ref().map(|(_, value)| *value));
        after = page.cursor();
        let Some(last) = &after else { break };
        tree.remove(&last.clone());
        tree.insert(&topic("a/000/x"), 1000);
    }
    assert_eq!(found, (0..100).collect::<Vec<_>>());
}

#[test]
fn a_page_ends_after_a_bounded_number_of_looks() {
    let mut tree = TopicTree::new();
    for number in 0..10_000 {
        tree.insert(&topic(&format!("a/{number}/x")), ());
    }
    tree.insert(&topic("a/zzz/y"), ());
    let wanted = filter("a/+/y");
    let (mut after, mut pages, mut found) = (None, 0, 0);
    loop {
        let mut page = tree.matches_after(&wanted, after.as_ref(), 10);
        found += page.by_ref().count();
        pages += 1;
        after = page.cursor();
        if after.is_none() {
            break;
        }
    }
    assert_eq!(found, 1);
    assert!(pages > 10_000 / (10 * LOOKS_PER_MATCH * 2), "{pages} pages");
}

#[test]
fn a_look_up_passes_over_subtrees_that_cannot_match() {
    let mut tree = TopicTree::new();
    for site in 0..10 {
        for device in 0..1000 {
            tree.insert(&topic(&format!("site/{site}/dev/{device}/state")), ());
        }
        tree.insert(&topic(&format!("site/{site}/name")), ());
    }
    for (text, matching) in [("site/+/name", 10), ("site/3/dev/77/+", 1), ("+/4/#", 1001)] {
        let wanted = filter(text);
        let mut page = tree.matches_after(&wanted, None, usize::MAX / LOOKS_PER_MATCH);
        let before = page.looks;
        assert_eq!(page.by_ref().count(), matching);
        let looks = before - page.looks;
        assert!(looks <= matching * 3 + 3, "{text}: {looks} looks for {matching} matches");
    }
}

#[test]
fn topics_as_deep_as_the_wire_allows_are_found_and_removed() {
    let names = ["/".repeat(65_535), "/".repeat(65_534), "a/".repeat(32_000), "$/".repeat(32_000)];
    let topics: Vec<_> = names.iter().map(|text| topic(text)).collect();
    let mut tree = tree_of(&topics);
    for text in
        ["#".to_owned(), "+/".repeat(32_000) + "#", "+/".repeat(32_000) + "+", "$/#".to_owned()]
    {
        let wanted = filter(&text);
        assert_eq!(matched(&tree, &wanted), by_levels(&topics, &wanted));
    }
    for name in &topics {
        assert_eq!(tree.remove(name).as_deref(), Some(name.as_str()));
    }
    assert!(tree.is_empty());
}
