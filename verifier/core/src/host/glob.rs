//! Shell globs as NetworkManager and systemd use them for device names: `*`, `?`, `[abc]`.

/// Whether `text` matches `pattern` as a whole.
pub fn matches(pattern: &str, text: &str) -> bool {
    inner(pattern.as_bytes(), text.as_bytes())
}

fn inner(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern.split_first(), text.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), _) => inner(rest, text) || text.split_first().is_some_and(|(_, after)| inner(pattern, after)),
        (Some((b'?', rest)), Some((_, after))) => inner(rest, after),
        (Some((b'[', rest)), Some((c, after))) => match rest.iter().position(|b| *b == b']') {
            Some(end) => {
                let (class, tail) = rest.split_at(end);
                let (negated, class) = match class.split_first() {
                    Some((b'!', class)) => (true, class),
                    _ => (false, class),
                };
                in_class(class, *c) != negated && inner(tail.get(1..).unwrap_or(&[]), after)
            }
            None => *c == b'[' && inner(rest, after),
        },
        (Some((p, rest)), Some((c, after))) => p == c && inner(rest, after),
        _ => false,
    }
}

fn in_class(class: &[u8], c: u8) -> bool {
    let range = class
        .windows(3)
        .any(|w| matches!(w, [low, b'-', high] if (*low..=*high).contains(&c)));
    range || class.contains(&c)
}

#[cfg(test)]
mod tests {
    use super::matches;
    use alloc::string::String;
    use proptest::prelude::*;

    #[test]
    fn as_a_shell_would() {
        for (pattern, text, want) in [
            ("cali*", "cali86a12876b92", true),
            ("cali*", "vxlan.calico", false),
            ("*", "", true),
            ("vxlan?calico", "vxlan.calico", true),
            ("[ev]xlan.calico", "vxlan.calico", true),
            ("[!v]xlan.calico", "vxlan.calico", false),
            ("eth[0-9]", "eth7", true),
            ("eth[0-9]", "etha", false),
            ("e*0", "eth0", true),
            ("e*0", "eth01", false),
        ] {
            assert_eq!(matches(pattern, text), want, "{pattern} {text}");
        }
    }

    proptest! {
        #[test]
        fn every_name_matches_itself_and_its_prefix_with_a_star(name in "[a-z][a-z0-9.]{0,14}", cut in 0_usize..8) {
            prop_assert!(matches(&name, &name));
            let mut prefix: String = name.chars().take(cut).collect();
            prefix.push('*');
            prop_assert!(matches(&prefix, &name));
        }
    }
}
