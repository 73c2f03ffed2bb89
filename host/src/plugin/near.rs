//! Which names may have been meant by one that nobody knows.

/// Names to tell at most.
const MOST: usize = 3;

/// The known names, and their families as patterns, that differ in few letters; the nearest first.
pub fn similar(wanted: &str, known: &[&str]) -> Vec<String> {
    let mut candidates: Vec<String> = known.iter().map(|name| (*name).to_owned()).collect();
    if wanted.ends_with('*') {
        candidates = known.iter().filter_map(|name| Some(format!("{}.*", name.split_once('.')?.0))).collect();
        candidates.dedup();
    }
    // A third of the letters: more would suggest what has nothing in common.
    let most = wanted.chars().count() / 3;
    let mut near: Vec<(usize, String)> =
        candidates.into_iter().map(|name| (distance(wanted, &name), name)).filter(|(far, _)| *far <= most).collect();
    near.sort();
    // Beside a slip of one or two letters, whatever is farther away was not meant.
    let nearest = near.first().map_or(0, |(far, _)| *far);
    near.into_iter().filter(|(far, _)| *far <= nearest + 1).map(|(_, name)| name).take(MOST).collect()
}

/// Letters to add, remove or replace.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (index, letter) in left.chars().enumerate() {
        let mut next = vec![index + 1];
        for ((other, above), diagonal) in right.iter().zip(row.iter().skip(1)).zip(&row) {
            let before = next.last().copied().unwrap_or_default();
            next.push((diagonal + usize::from(*other != letter)).min(above + 1).min(before + 1));
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_counted_and_not_guessed() {
        for (left, right, expected) in
            [("", "abc", 3), ("abc", "abc", 0), ("step", "stpe", 2), ("add", "added", 2), ("ä", "a", 1)]
        {
            assert_eq!(distance(left, right), expected, "{left} {right}");
            assert_eq!(distance(right, left), expected, "{right} {left}");
        }
    }

    #[test]
    fn what_has_nothing_in_common_is_not_suggested() {
        let known = ["client.add", "client.edit", "deal.add", "deal.close"];
        assert_eq!(similar("client.ad", &known), ["client.add"]);
        assert_eq!(similar("deal.closed", &known), ["deal.close"]);
        assert_eq!(similar("deals.*", &known), ["deal.*"]);
        assert_eq!(similar("weather", &known), Vec::<String>::new());
    }
}
