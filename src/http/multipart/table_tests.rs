//! The table of docs/forms.md, row by row.

use super::tests::{Parts, parts, read_both};
use super::*;

/// What a body gets: its parts, or a refusal that says these words.
enum Gets {
    Read(&'static [(&'static str, &'static str)]),
    Malformed(&'static str),
    Unsupported(&'static str),
}

use Gets::{Malformed, Read, Unsupported};

/// A name of what is tried, the body with the boundary `b`, and what it gets.
type Case = (&'static str, &'static [u8], Gets);

macro_rules! form {
    ($($headers:literal => $content:literal),*; $end:literal) => {
        concat!($("--b\r\n", $headers, "\r\n\r\n", $content, "\r\n",)* $end).as_bytes()
    };
}

const ONE: Gets = Read(&[("a", "1")]);

fn cases() -> Vec<Case> {
    let mut cases = of_bodies();
    cases.extend(of_names());
    cases.extend(of_contents());
    cases
}

fn of_bodies() -> Vec<Case> {
    vec![
        ("one part", form!("Content-Disposition: form-data; name=\"a\"" => "1"; "--b--\r\n"), ONE),
        (
            "two parts, one of them empty",
            form!("Content-Disposition: form-data; name=a" => "", "Content-Disposition: form-data; name=b" => "2"; "--b--"),
            Read(&[("a", ""), ("b", "2")]),
        ),
        ("no part at all", b"--b--\r\n", Read(&[])),
        ("nothing", b"", Malformed("ends before")),
        (
            "an empty line before the first boundary",
            b"\r\n--b\r\nContent-Disposition: form-data; name=a\r\n\r\n1\r\n--b--",
            ONE,
        ),
        ("a preamble", b"This is a form.\r\n\r\n--b\r\nContent-Disposition: form-data; name=a\r\n\r\n1\r\n--b--", ONE),
        (
            "a first boundary that begins no line: the last one ends an empty form",
            b"x--b\r\nContent-Disposition: form-data; name=a\r\n\r\n1\r\n--b--",
            Read(&[]),
        ),
        ("no boundary anywhere", b"This is no form.", Malformed("does not begin")),
        (
            "another boundary",
            b"--c\r\nContent-Disposition: form-data; name=a\r\n\r\n1\r\n--c--",
            Malformed("does not begin"),
        ),
        (
            "white space behind boundaries",
            b"--b \t\r\nContent-Disposition: form-data; name=a\r\n\r\n1\r\n--b-- \t\r\n",
            ONE,
        ),
        (
            "something else behind a boundary",
            b"--bc\r\nContent-Disposition: form-data; name=a\r\n\r\n1\r\n--b--",
            Malformed("must end there"),
        ),
        ("no line end after the last boundary", form!("Content-Disposition: form-data; name=a" => "1"; "--b--"), ONE),
        ("an epilogue", form!("Content-Disposition: form-data; name=a" => "1"; "--b--\r\nthe end"), ONE),
        ("no last boundary", form!("Content-Disposition: form-data; name=a" => "1"; ""), Malformed("ends before")),
        (
            "a last boundary that is cut",
            form!("Content-Disposition: form-data; name=a" => "1"; "--b-"),
            Malformed("ends before"),
        ),
        (
            "lines that end with LF alone",
            b"--b\nContent-Disposition: form-data; name=a\n\n1\n--b--\n",
            Malformed("LF alone"),
        ),
        (
            "headers that end with LF alone",
            b"--b\r\nContent-Disposition: form-data; name=a\n\n1\r\n--b--",
            Malformed("ends before"),
        ),
        (
            "content that looks like a boundary",
            form!("Content-Disposition: form-data; name=a" => "1\n--b\r\r\n--B"; "--b--"),
            Read(&[("a", "1\n--b\r\r\n--B")]),
        ),
        (
            "line ends in the content",
            form!("Content-Disposition: form-data; name=a" => "1\r\n\n\r"; "--b--"),
            Read(&[("a", "1\r\n\n\r")]),
        ),
    ]
}

fn of_names() -> Vec<Case> {
    vec![
        ("a name without quotes", form!("Content-Disposition: form-data; name=a" => "1"; "--b--"), ONE),
        (
            "headers in other letters, blanks around `=`",
            form!("CONTENT-DISPOSITION: Form-Data ; NAME = \"a\"" => "1"; "--b--"),
            ONE,
        ),
        (
            "a name in UTF-8",
            form!("Content-Disposition: form-data; name=\"größe\"" => "1"; "--b--"),
            Read(&[("größe", "1")]),
        ),
        (
            "a name in another character set",
            b"--b\r\nContent-Disposition: form-data; name=\"gr\xf6\xdfe\"\r\n\r\n1\r\n--b--",
            Malformed("not UTF-8"),
        ),
        (
            "`\\\"` and `\\\\` in a name",
            form!("Content-Disposition: form-data; name=\"a\\\"b\\\\c\"" => "1"; "--b--"),
            Read(&[("a\"b\\c", "1")]),
        ),
        (
            "a path of Windows as the name of a file",
            form!("Content-Disposition: form-data; filename=\"C:\\a;name=x.jpg\"; name=a" => "1"; "--b--"),
            ONE,
        ),
        (
            "a name of a file that ends with `\\\\`",
            form!("Content-Disposition: form-data; filename=\"x\\\\\"; name=a" => "1"; "--b--"),
            ONE,
        ),
        (
            "`name*=UTF-8''...`",
            form!("Content-Disposition: form-data; name*=UTF-8''gr%C3%B6%C3%9Fe" => "1"; "--b--"),
            Read(&[("größe", "1")]),
        ),
        (
            "`name*=ISO-8859-1''...`, beside `name`",
            form!("Content-Disposition: form-data; name=\"grosse\"; name*=iso-8859-1'de'gr%F6%DFe" => "1"; "--b--"),
            Read(&[("größe", "1")]),
        ),
        (
            "`name*` in another character set",
            form!("Content-Disposition: form-data; name*=koi8-r''%C1" => "1"; "--b--"),
            Malformed("koi8-r"),
        ),
        (
            "`name*` without a character set",
            form!("Content-Disposition: form-data; name*=a" => "1"; "--b--"),
            Malformed("name*=UTF-8''"),
        ),
        (
            "a name in pieces (`name*0`)",
            form!("Content-Disposition: form-data; name*0=a; name*1=b" => "1"; "--b--"),
            Malformed("pieces"),
        ),
        ("no name", form!("Content-Disposition: form-data; filename=\"x\"" => "1"; "--b--"), Malformed("no name")),
        ("an empty name", form!("Content-Disposition: form-data; name=\"\"" => "1"; "--b--"), Malformed("no name")),
        (
            "a quote that is not closed",
            form!("Content-Disposition: form-data; name=\"a" => "1"; "--b--"),
            Malformed("no name"),
        ),
        ("no headers", form!("" => "1"; "--b--"), Malformed("no name")),
        (
            "no empty line after the headers",
            b"--b\r\nContent-Disposition: form-data; name=a\r\n\r\n--b--\r\n--b--",
            Malformed("no empty line"),
        ),
    ]
}

fn of_contents() -> Vec<Case> {
    vec![
        (
            "`Content-Transfer-Encoding: 7bit`, `8bit` or `binary`",
            form!(
                "Content-Disposition: form-data; name=a\r\nContent-Transfer-Encoding: 7bit" => "1",
                "Content-Disposition: form-data; name=b\r\nContent-Transfer-Encoding: 8BIT" => "2",
                "Content-Disposition: form-data; name=c\r\nContent-Transfer-Encoding: binary" => "3"; "--b--"),
            Read(&[("a", "1"), ("b", "2"), ("c", "3")]),
        ),
        ("`Content-Transfer-Encoding: base64`", form!("Content-Disposition: form-data; name=a\r\nContent-Transfer-Encoding: base64" => "MQ=="; "--b--"), Unsupported("Content-Transfer-Encoding base64")),
        ("`Content-Transfer-Encoding: quoted-printable`", form!("Content-Disposition: form-data; name=a\r\nContent-Transfer-Encoding: Quoted-Printable" => "=31"; "--b--"), Unsupported("Content-Transfer-Encoding Quoted-Printable")),
        ("any other `Content-Transfer-Encoding`", form!("Content-Disposition: form-data; name=a\r\nContent-Transfer-Encoding: x-uuencode" => "1"; "--b--"), Unsupported("x-uuencode")),
        ("a text in UTF-8", form!("Content-Disposition: form-data; name=a\r\nContent-Type: text/plain; charset=UTF-8" => "é"; "--b--"), Read(&[("a", "é")])),
        ("a text in ISO 8859-1, if the part says so", b"--b\r\nContent-Disposition: form-data; name=a\r\nContent-Type: text/plain; charset=ISO-8859-1\r\n\r\n\xe9\r\n--b--", Read(&[("a", "é")])),
        ("a text in another character set, if it is ASCII all the same", form!("Content-Disposition: form-data; name=a\r\nContent-Type: text/plain; charset=windows-1251" => "1"; "--b--"), ONE),
        ("a text in another character set", b"--b\r\nContent-Disposition: form-data; name=a\r\nContent-Type: text/plain; charset=\"windows-1251\"\r\n\r\n\xe0\r\n--b--", Unsupported("windows-1251")),
        ("a file, whatever its character set", form!("Content-Disposition: form-data; name=a; filename=x\r\nContent-Type: text/plain; charset=windows-1251" => "é"; "--b--"), Read(&[("a", "é")])),
        ("a field `_charset_` of `UTF-8`", form!("Content-Disposition: form-data; name=\"_charset_\"" => "UTF-8", "Content-Disposition: form-data; name=a" => "1"; "--b--"), ONE),
        ("a field `_charset_` of anything else", form!("Content-Disposition: form-data; name=\"_charset_\"" => "iso-8859-1", "Content-Disposition: form-data; name=a" => "1"; "--b--"), Unsupported("iso-8859-1")),
        ("a part that is a multipart message", form!("Content-Disposition: form-data; name=a\r\nContent-Type: multipart/mixed; boundary=c" => "--c--"; "--b--"), Malformed("one by one")),
        ("a header that is none", form!("no header\r\nContent-Disposition: form-data; name=a" => "1"; "--b--"), Malformed("cannot be read")),
    ]
}

#[test]
fn every_row_of_the_page_holds() {
    let page = include_str!("../../../docs/forms.md");
    let cases = cases();
    assert!(cases.len() >= 40);
    let mut rows = Vec::new();
    for (what, body, gets) in &cases {
        let told = match (gets, read_both(body)) {
            (Read(expected), Ok(found)) => {
                let expected: Parts = parts(expected);
                assert_eq!(found, expected, "{what}");
                "is read"
            }
            (Malformed(words), Err(problem)) => {
                assert!(
                    problem.code == Code::MalformedMultipart && problem.detail.contains(words),
                    "{what}: {problem:?}"
                );
                "400 `malformed_multipart`"
            }
            (Unsupported(words), Err(problem)) => {
                assert!(
                    problem.code == Code::UnsupportedMediaType && problem.detail.contains(words),
                    "{what}: {problem:?}"
                );
                assert!(problem.field.is_some(), "{what}");
                "415 `unsupported_media_type`"
            }
            (_, other) => panic!("{what}: {other:?}"),
        };
        rows.push(format!("| {what} | {told} |"));
    }
    let told: Vec<&str> = page.lines().filter(|line| line.ends_with(" |")).skip(2).collect();
    assert_eq!(told, rows, "docs/forms.md has another table:\n{}", rows.join("\n"));
}
