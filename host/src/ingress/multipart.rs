//! A multipart body: the form that PHP sends when it is given an array.
//!
//! - A part's name is a field's name, in brackets as in a form.
//! - An event has no files: a part with one is refused. The empty one that a browser sends for no file is none.

use std::convert::Infallible;

use axum::body::Bytes;
use serde_json::{Map, Value};

use super::decode::{self, Fields};
use super::problem::Problem;
use super::shape::is_utf8;

/// Reads the parts of a body that is there whole.
pub(super) async fn fields(body: Bytes, boundary: String) -> Result<Map<String, Value>, Problem> {
    let broken = |error: multer::Error| Problem::Multipart(error.to_string());
    let whole = futures_util::stream::iter([Ok::<_, Infallible>(body)]);
    let mut parts = multer::Multipart::new(whole, boundary);
    let mut fields = Fields::default();
    while let Some(part) = parts.next_field().await.map_err(broken)? {
        let charset = part.content_type().and_then(|kind| kind.get_param("charset"));
        if charset.is_some_and(|charset| !is_utf8(charset.as_str())) {
            return Err(Problem::ContentType);
        }
        let name = part.name().map(str::to_owned).ok_or_else(|| Problem::Multipart("a part has no name".into()))?;
        let file = part.file_name().map(str::to_owned);
        let bytes = part.bytes().await.map_err(broken)?;
        match file {
            Some(file) if file.is_empty() && bytes.is_empty() => continue,
            Some(_) => return Err(Problem::File(decode::shown(&name))),
            None => {}
        }
        let value = String::from_utf8(bytes.into());
        let value = value.map_err(|_| decode::Error::Utf8(format!("part `{}`", decode::shown(&name))))?;
        fields.put(&name, value)?;
    }
    Ok(fields.finished())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn part(head: &str, body: &str) -> String {
        format!("--B\r\nContent-Disposition: form-data; {head}\r\n\r\n{body}\r\n")
    }

    async fn read(text: &str) -> Result<Value, Problem> {
        fields(Bytes::copy_from_slice(text.as_bytes()), "B".to_owned()).await.map(Value::Object)
    }

    #[tokio::test]
    async fn parts_are_the_fields_of_a_form() {
        let parts = [
            part("name=\"event\"", "client.edit"),
            part("name=\"newparam[title]\"", "ООО «Ромашка»\r\n--C?"),
            part("name=\"clids[0]\"", "7"),
            part("name=\"clids[1]\"\r\nContent-Type: text/plain; charset=UTF8", "8"),
            part("name=\"ses\"", "cookie"),
            part("name=\"upload\"; filename=\"\"\r\nContent-Type: application/octet-stream", ""),
        ];
        let expected =
            json!({ "event": "client.edit", "newparam": { "title": "ООО «Ромашка»\r\n--C?" }, "clids": ["7", "8"] });
        assert_eq!(read(&format!("{}--B--\r\n", parts.concat())).await, Ok(expected));
    }

    #[tokio::test]
    async fn what_is_no_form_is_refused_by_its_own_name() {
        let end = "--B--\r\n";
        let file = part("name=\"x\"; filename=\"a.php\"", "<?php");
        assert_eq!(read(&format!("{file}{end}")).await, Err(Problem::File("x".into())));
        let twice = part("name=\"a\"", "1").repeat(2);
        assert_eq!(read(&format!("{twice}{end}")).await, Err(decode::Error::Duplicate("a".into()).into()));
        let other = part("name=\"a\"\r\nContent-Type: text/plain; charset=windows-1251", "1");
        assert_eq!(read(&format!("{other}{end}")).await, Err(Problem::ContentType));
        let whole = format!("{}{end}", part("name=\"event\"", "a.b"));
        for cut in [
            "".to_owned(),
            part("name=\"event\"", "a.b"),
            whole[..whole.len() - 8].to_owned(),
            part("x=\"y\"", "1") + end,
        ] {
            assert!(matches!(read(&cut).await, Err(Problem::Multipart(_))), "{cut:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
            let body = [b"--B\r\nContent-Disposition: form-data; name=\"", &bytes[..], b"\r\n--B--"].concat();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            drop(runtime.block_on(fields(Bytes::from(body), "B".to_owned())));
        }
    }
}
