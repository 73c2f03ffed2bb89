//! What a request's head says of its body: which shape it has, how it is packed.

use axum::http::{HeaderMap, HeaderName, header};

use super::problem::Problem;

/// The shape of a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Shape {
    /// `application/x-www-form-urlencoded`.
    Form,
    /// `application/json`.
    Json,
    /// `multipart/form-data`, whose parts this line divides.
    Multipart(String),
}

/// How a body is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packing {
    /// With gzip.
    Gzip,
    /// With deflate, in the envelope of zlib or without.
    Deflate,
}

/// The shape, where the body is text in UTF-8.
pub(super) fn shape(headers: &HeaderMap) -> Result<Shape, Problem> {
    let value = one(headers, &header::CONTENT_TYPE)?.ok_or(Problem::ContentType)?;
    let mut parts = value.split(';').map(str::trim);
    let shape = match parts.next().unwrap_or_default().to_ascii_lowercase().as_str() {
        "application/x-www-form-urlencoded" => Shape::Form,
        "application/json" => Shape::Json,
        "multipart/form-data" => Shape::Multipart(
            multer::parse_boundary(value).map_err(|_| Problem::Multipart("it names no `boundary`".into()))?,
        ),
        _ => return Err(Problem::ContentType),
    };
    let charsets = parts.filter_map(|part| part.split_once('='));
    let utf8 = charsets.filter(|(name, _)| name.trim().eq_ignore_ascii_case("charset")).all(|(_, name)| is_utf8(name));
    if utf8 { Ok(shape) } else { Err(Problem::ContentType) }
}

/// Whether text in this encoding is UTF-8, by any of the names that programs give it.
pub(super) fn is_utf8(name: &str) -> bool {
    let name = name.trim_matches(|letter: char| letter.is_whitespace() || matches!(letter, '"' | '\''));
    let names = ["", "utf-8", "utf8", "utf8mb4", "unicode-1-1-utf-8", "us-ascii", "ascii"];
    names.iter().any(|known| name.eq_ignore_ascii_case(known))
}

/// How the body is packed, where it is.
pub(super) fn packing(headers: &HeaderMap) -> Result<Option<Packing>, Problem> {
    let values = headers.get_all(header::CONTENT_ENCODING).iter().map(|value| value.to_str().unwrap_or("?"));
    let mut packing = None;
    for name in values.flat_map(|value| value.split(',')).map(|name| name.trim().to_ascii_lowercase()) {
        let this = match name.as_str() {
            "" | "identity" => continue,
            "gzip" | "x-gzip" => Packing::Gzip,
            "deflate" => Packing::Deflate,
            _ => return Err(Problem::ContentEncoding),
        };
        if packing.replace(this).is_some() {
            return Err(Problem::ContentEncoding);
        }
    }
    Ok(packing)
}

/// A header that must not say two things.
fn one<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Problem> {
    let mut values = headers.get_all(name).iter();
    let Some(first) = values.next() else { return Ok(None) };
    if values.any(|other| other != first) {
        return Err(Problem::ContentType);
    }
    first.to_str().map(Some).map_err(|_| Problem::ContentType)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &'static str, values: &[&'static str]) -> HeaderMap {
        values.iter().map(|value| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    #[test]
    fn every_spelling_of_utf8_is_utf8_and_no_other_charset_is() {
        for good in [
            "application/json",
            "application/json;",
            "Application/JSON; charset=utf8",
            "application/json;charset=\"UTF-8\"",
            "application/json; charset='utf-8'",
            "application/json; Charset = us-ascii",
            "application/json; charset=utf8mb4; version=1",
        ] {
            assert_eq!(shape(&of("content-type", &[good])), Ok(Shape::Json), "{good}");
        }
        for bad in [
            "application/json; charset=windows-1251",
            "application/json; charset = windows-1251",
            "application/json; charset=utf-8; charset=koi8-r",
            "application/json; charset=utf-16",
            "text/plain",
            "",
        ] {
            assert_eq!(shape(&of("content-type", &[bad])), Err(Problem::ContentType), "{bad}");
        }
        assert_eq!(shape(&HeaderMap::new()), Err(Problem::ContentType));
        let two = of("content-type", &["application/json", "application/x-www-form-urlencoded"]);
        assert_eq!(shape(&two), Err(Problem::ContentType));
        let parts = of("content-type", &["multipart/form-data; boundary=\"--x\""]);
        assert_eq!(shape(&parts), Ok(Shape::Multipart("--x".to_owned())));
        assert!(matches!(shape(&of("content-type", &["multipart/form-data"])), Err(Problem::Multipart(_))));
    }

    #[test]
    fn one_known_packing_is_taken_and_two_or_others_are_refused() {
        let packing = |values: &[&'static str]| packing(&of("content-encoding", values));
        assert_eq!(packing(&[]), Ok(None));
        assert_eq!(packing(&["identity"]), Ok(None));
        assert_eq!(packing(&["GZIP"]), Ok(Some(Packing::Gzip)));
        assert_eq!(packing(&["identity, x-gzip"]), Ok(Some(Packing::Gzip)));
        assert_eq!(packing(&["deflate"]), Ok(Some(Packing::Deflate)));
        for bad in [&["br"][..], &["gzip, gzip"], &["gzip", "deflate"], &["zstd"]] {
            assert_eq!(packing(bad), Err(Problem::ContentEncoding), "{bad:?}");
        }
    }
}
