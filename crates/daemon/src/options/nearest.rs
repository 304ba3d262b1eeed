//! "Did you mean": the known name that is closest to a mistyped one.

/// The known name closest to `name`, when at most a third of it differs. Only its last part is
/// compared when the part before is known: `mqtt.recieve_maximum`.
pub(super) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let limit = name.chars().count().div_ceil(3);
    within(name, known, limit)
}

/// The known name that differs from `name` in one or two places: a slip of the fingers.
pub(super) fn near_miss<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    within(name, known, 2)
}

fn within<'a>(name: &str, known: impl Iterator<Item = &'a str>, limit: usize) -> Option<&'a str> {
    known
        .map(|candidate| (distance(name, candidate), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's distance: how many characters must be added, removed or replaced.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (index, ours) in left.chars().enumerate() {
        let mut diagonal = index;
        let mut before = index + 1;
        for (cell, theirs) in row.iter_mut().skip(1).zip(&right) {
            let replaced = diagonal + usize::from(ours != *theirs);
            diagonal = *cell;
            before = replaced.min(diagonal + 1).min(before + 1);
            *cell = before;
        }
        if let Some(first) = row.first_mut() {
            *first = index + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}
