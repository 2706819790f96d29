//! What every Kubernetes object carries, and how the API's JSON bends where Go's does: `null` for an empty list, numbers where one
//! expects text.

use crate::names::UnixNs;
use alloc::{
    collections::BTreeMap,
    format,
    string::{String, ToString},
    vec::Vec,
};
use core::fmt;
use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, SeqAccess, Visitor},
};

/// `metadata`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Meta {
    /// Name.
    #[serde(default)]
    pub name: String,
    /// Namespace, empty for what has none.
    #[serde(default, deserialize_with = "nullable")]
    pub namespace: String,
    /// UID: another one for every object that ever was.
    #[serde(default, deserialize_with = "nullable")]
    pub uid: String,
    /// Annotations.
    #[serde(default, deserialize_with = "nullable")]
    pub annotations: BTreeMap<String, String>,
    /// Labels.
    #[serde(default, deserialize_with = "nullable")]
    pub labels: BTreeMap<String, String>,
    /// Owners.
    #[serde(default, deserialize_with = "nullable")]
    pub owner_references: Vec<OwnerReference>,
    /// When it was created.
    #[serde(default, deserialize_with = "timestamp")]
    pub creation_timestamp: Option<UnixNs>,
    /// When its deletion began.
    #[serde(default, deserialize_with = "timestamp")]
    pub deletion_timestamp: Option<UnixNs>,
}

impl Meta {
    /// An annotation.
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.get(key).map(String::as_str)
    }
}

/// One owner of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OwnerReference {
    /// Kind.
    pub kind: String,
    /// Name.
    pub name: String,
    /// Whether it is the managing controller.
    #[serde(default, deserialize_with = "nullable")]
    pub controller: bool,
}

/// A field that may be missing, or `null`, for its default.
pub(super) fn nullable<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// A time as the API writes it (RFC 3339).
pub(super) fn timestamp<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<UnixNs>, D::Error> {
    let Some(text) = Option::<String>::deserialize(deserializer)? else {
        return Ok(None);
    };
    rfc3339(&text)
        .map(Some)
        .ok_or_else(|| de::Error::custom(format!("{text:?} is not a time like 2026-01-31T12:00:00Z")))
}

/// Reads RFC 3339 with any fraction and offset, as far as a time after 1970 goes.
///
/// By hand, because the crates that read times also read clocks, and the core must not be able to.
pub fn rfc3339(text: &str) -> Option<UnixNs> {
    let (date, rest) = text.split_once(['T', 't', ' '])?;
    let (year, month_day) = date.split_once('-')?;
    let (month, day) = month_day.split_once('-')?;
    let (year, month, day): (i64, i64, i64) = (digits(year, 4)?, digits(month, 2)?, digits(day, 2)?);
    let zone_at = rest.find(['Z', 'z', '+', '-'])?;
    let (clock, zone) = rest.split_at(zone_at);
    let (whole, fraction) = clock.split_once('.').unwrap_or((clock, ""));
    let mut parts = whole.split(':');
    let (hour, minute, second) = (digits(parts.next()?, 2)?, digits(parts.next()?, 2)?, digits(parts.next()?, 2)?);
    if parts.next().is_some() || !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let offset_seconds = match zone {
        "Z" | "z" => 0,
        _ => {
            let (h, m) = zone.get(1..)?.split_once(':')?;
            let seconds = digits(h, 2)? * 3600 + digits(m, 2)? * 60;
            if zone.starts_with('-') { -seconds } else { seconds }
        }
    };
    let fraction_ns = match fraction.get(..9).unwrap_or(fraction) {
        "" => 0,
        f => digits(f, f.len())? * 10_i64.pow(9 - u32::try_from(f.len()).ok()?),
    };
    // Days since 1970-01-01 of a proleptic Gregorian date, counting years from March so that the leap day is the last of the year.
    let shifted_year = if month <= 2 { year - 1 } else { year };
    let era = shifted_year.div_euclid(400);
    let year_of_era = shifted_year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468;
    let seconds = days * 86_400 + hour * 3600 + minute * 60 + second - offset_seconds;
    let ns = seconds.checked_mul(1_000_000_000)?.checked_add(fraction_ns)?;
    u64::try_from(ns).ok().map(UnixNs)
}

fn digits(text: &str, count: usize) -> Option<i64> {
    if text.len() == count && !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        text.parse().ok()
    } else {
        None
    }
}

/// A configuration value as text, whatever JSON type it has. Felix parses its parameters from text, so this program does the same.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Scalar(pub String);

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl<'de> Visitor<'de> for Text {
            type Value = Scalar;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a configuration value")
            }
            fn visit_bool<E: de::Error>(self, v: bool) -> Result<Scalar, E> {
                Ok(Scalar(v.to_string()))
            }
            fn visit_i64<E: de::Error>(self, v: i64) -> Result<Scalar, E> {
                Ok(Scalar(v.to_string()))
            }
            fn visit_u64<E: de::Error>(self, v: u64) -> Result<Scalar, E> {
                Ok(Scalar(v.to_string()))
            }
            fn visit_f64<E: de::Error>(self, v: f64) -> Result<Scalar, E> {
                Ok(Scalar(v.to_string()))
            }
            fn visit_str<E: de::Error>(self, v: &str) -> Result<Scalar, E> {
                Ok(Scalar(v.to_string()))
            }
            fn visit_unit<E: de::Error>(self) -> Result<Scalar, E> {
                Ok(Scalar::default())
            }
            fn visit_none<E: de::Error>(self) -> Result<Scalar, E> {
                Ok(Scalar::default())
            }
            fn visit_some<D: Deserializer<'de>>(self, d: D) -> Result<Scalar, D::Error> {
                Scalar::deserialize(d)
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Scalar, A::Error> {
                let mut all = Vec::new();
                while let Some(Scalar(one)) = seq.next_element()? {
                    all.push(one);
                }
                Ok(Scalar(all.join(",")))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Scalar, A::Error> {
                let mut all = Vec::new();
                while let Some((key, Scalar(value))) = map.next_entry::<String, Scalar>()? {
                    all.push(format!("{key}={value}"));
                }
                Ok(Scalar(all.join(",")))
            }
        }
        deserializer.deserialize_any(Text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_the_api() {
        let s = 1_000_000_000;
        assert_eq!(rfc3339("1970-01-01T00:00:00Z"), Some(UnixNs(0)));
        assert_eq!(rfc3339("2026-01-01T00:00:00Z"), Some(UnixNs(1_767_225_600 * s)));
        assert_eq!(rfc3339("2024-02-29T12:30:45Z"), Some(UnixNs(1_709_209_845 * s)));
        assert_eq!(
            rfc3339("2024-02-29T12:30:45.25+02:00"),
            Some(UnixNs(1_709_202_645 * s + 250_000_000))
        );
        assert_eq!(rfc3339("2000-03-01T00:00:00-00:30"), Some(UnixNs(951_870_600 * s)));
        for bad in [
            "",
            "today",
            "2026-01-01",
            "2026-13-01T00:00:00Z",
            "2026-01-01T00:00Z",
            "2026-01-01T00:00:00",
        ] {
            assert_eq!(rfc3339(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_setting_of_any_type_is_text() {
        let got: BTreeMap<String, Scalar> =
            serde_json::from_str(r#"{"a":true,"b":4096,"c":"90s","d":null,"e":["x","y"],"f":{"k":1}}"#).unwrap();
        let text: Vec<&str> = got.values().map(|s| s.0.as_str()).collect();
        assert_eq!(text, ["true", "4096", "90s", "", "x,y", "k=1"]);
    }
}
