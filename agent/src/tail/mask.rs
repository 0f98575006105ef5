//! Masks secrets in lines before they become evidence.
//!
//! A line leaves the node in sealed blocks that cannot be changed afterwards, so what must not leave is replaced here
//! by `[masked:<kind>]`. Works on bytes, line by line, in time linear in the line: one automaton finds the secrets of
//! all kinds in one pass. It errs towards masking too much.
//!
//! Deliberately absent: memory between lines. A private key's lines are recognised each by itself, so that the answer
//! does not depend on where reading began.

use regex_automata::Input;
use regex_automata::meta::Regex;
use regex_automata::util::captures::Captures;
use regex_automata::util::syntax;

/// The kinds that are always masked: kind, and a pattern of which group `s` (or the whole match) is the secret.
const BUILT_IN: &[(&str, &str)] = &[
    // PEM: the whole rest of the line, since keys are often logged on one line with \n escaped.
    ("private-key", r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY( BLOCK)?-----(?<s>.+)"),
    ("private-key", r"(?<s>.+)-----END [A-Z0-9 ]{0,40}PRIVATE KEY( BLOCK)?-----"),
    // JWT: three base64url parts, the first of which is `{"` encoded. Before bearer and passwords: it says more.
    ("jwt", r"\bey[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*"),
    ("aws-key", r"\b(AKIA|ASIA|AROA|AIDA|AGPA|ANPA)[A-Z0-9]{16}\b"),
    (
        "aws-secret",
        r#"(?i:aws_?secret_?(access_?)?key|secretaccesskey)\\?["']?\s{0,4}[:=]\s{0,4}\\?["']?(?<s>[A-Za-z0-9/+=]{16,})"#,
    ),
    (
        "token",
        r"\b(gh[pousr]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,}|glpat-[A-Za-z0-9_-]{16,}|xox[abprs]-[A-Za-z0-9-]{10,}|AIza[A-Za-z0-9_-]{30,}|[sr]k_live_[A-Za-z0-9]{16,})",
    ),
    // Authorization headers, also in JSON and in curl -v output.
    ("bearer", r#"(?i:\bbearer)[\s:=+%20]{1,6}\\?["']?(?<s>[A-Za-z0-9._~+/=-]{6,})"#),
    (
        "basic-auth",
        r#"(?i:\bauthorization)\\?["']?\s{0,4}[:=]\s{0,4}\\?["']?(?i:basic)\s{1,4}(?<s>[A-Za-z0-9+/=_-]{4,})"#,
    ),
    // scheme://user:password@host. The password may hold '@': the last one before the path counts.
    ("url-password", r#"\b[A-Za-z][A-Za-z0-9+.-]{1,20}://[^\s:/@"'<>]{0,100}:(?<s>[^\s/"'<>]{1,200})@"#),
    // key=value and "key": "value", where the key names a secret; the quoted form first, for it may hold spaces.
    (
        "password",
        r#"(?i:passw(or)?d|passphrase|pwd|secret|api[_-]?key|access[_-]?key|auth[_-]?token|access[_-]?token|refresh[_-]?token|client[_-]?secret|private[_-]?token|credentials?)\\?["']?\s{0,4}(:|=|=>|:=)\s{0,4}\\?"(?<s>[^"]{1,})"#,
    ),
    (
        "password",
        r#"(?i:passw(or)?d|passphrase|pwd|secret|api[_-]?key|access[_-]?key|auth[_-]?token|access[_-]?token|refresh[_-]?token|client[_-]?secret|private[_-]?token|credentials?)\\?["']?\s{0,4}(:|=|=>|:=)\s{0,4}'(?<s>[^']{1,})"#,
    ),
    (
        "password",
        r#"(?i:passw(or)?d|passphrase|pwd|secret|api[_-]?key|access[_-]?key|auth[_-]?token|access[_-]?token|refresh[_-]?token|client[_-]?secret|private[_-]?token|credentials?)\\?["']?\s{0,4}(:|=|=>|:=)\s{0,4}(?<s>[^\s"',;&)}\]]{1,})"#,
    ),
    ("password", r"(?i:\s--?(password|passwd|token|secret)[= ])(?<s>\S+)"),
    // After a bare `token` comes a word of a parser's message as well: only what is as long as a credential.
    ("token", r#"(?i:\btoken)\\?["']?\s{0,4}(:|=|=>|:=)\s{0,4}\\?["']?(?<s>[A-Za-z0-9._~+/=-]{16,})"#),
];

/// Shortest line of a private key's body, in base64 digits (PEM writes 64, PGP 64 to 76).
const KEY_LINE_MIN: usize = 60;
/// Longest.
const KEY_LINE_MAX: usize = 76;

/// A pattern that is no regular expression for masks.
#[derive(Debug, Clone, thiserror::Error)]
#[error("mask patterns: {0}; correct or remove the extra masks")]
pub struct MaskError(String);

/// Replaces secrets by `[masked:<kind>]`.
#[derive(Debug)]
pub struct Masker {
    regex: Regex,
    kinds: Vec<String>,
    /// For each pattern, the group that is the secret, where it has one.
    secret: Vec<Option<usize>>,
    captures: Captures,
}

impl Masker {
    /// The built-in kinds and `extra` ones (kind and pattern; a group named `s` limits what is replaced).
    pub fn new(extra: &[(String, String)]) -> Result<Self, MaskError> {
        let all = BUILT_IN.iter().map(|(k, p)| ((*k).to_owned(), (*p).to_owned()));
        // Extra masks first: the person who wrote one wants its name to be seen.
        let (kinds, patterns): (Vec<String>, Vec<String>) = extra.iter().cloned().chain(all).unzip();
        let regex = Regex::builder()
            .syntax(syntax::Config::new().unicode(false).utf8(false))
            .configure(Regex::config().utf8_empty(false).nfa_size_limit(Some(32 * 1024 * 1024)))
            .build_many(&patterns)
            .map_err(|e| {
                let at = e.pattern().and_then(|p| kinds.get(p.as_usize())).cloned().unwrap_or_default();
                let why = e.syntax_error().map_or_else(|| e.to_string(), ToString::to_string);
                MaskError(format!("{at}: {why}"))
            })?;
        let groups = regex.group_info();
        let secret = (0..kinds.len())
            .map(|i| regex_automata::PatternID::new(i).ok().and_then(|p| groups.to_index(p, "s")))
            .collect();
        let captures = regex.create_captures();
        Ok(Self { regex, kinds, secret, captures })
    }

    /// Masks the secrets in `line`. Returns whether there were any.
    pub fn mask(&mut self, line: &mut Vec<u8>) -> bool {
        if let Some(body) = key_line(line) {
            line.truncate(body);
            line.extend_from_slice(b"[masked:private-key]");
            return true;
        }
        let mut out: Option<Vec<u8>> = None;
        let (mut at, mut copied) = (0, 0);
        while at < line.len() {
            self.regex.search_captures(&Input::new(line.as_slice()).range(at..), &mut self.captures);
            let (Some(whole), Some(pattern)) = (self.captures.get_match(), self.captures.pattern()) else {
                break;
            };
            let span = self.secret[pattern.as_usize()]
                .and_then(|g| self.captures.get_group(g))
                .unwrap_or_else(|| whole.span());
            // What was masked before stays so: `password=[masked:jwt]`.
            if span.start >= copied && !span.is_empty() {
                let out = out.get_or_insert_with(|| Vec::with_capacity(line.len() + 32));
                out.extend_from_slice(&line[copied..span.start]);
                out.extend_from_slice(b"[masked:");
                out.extend_from_slice(self.kinds[pattern.as_usize()].as_bytes());
                out.push(b']');
                copied = span.end;
            }
            at = span.end.max(at + 1);
        }
        let Some(mut out) = out else { return false };
        out.extend_from_slice(&line[copied..]);
        *line = out;
        true
    }
}

/// Where the base64 line of a private key begins, if `line` is one: the line's last word is 60 to 76 base64 digits with
/// upper case, lower case and figures among them (so that digests in hex stay), and nothing but what a container
/// runtime puts in front of a line stands before it.
fn key_line(line: &[u8]) -> Option<usize> {
    let end = line.iter().rposition(|b| !b.is_ascii_whitespace())? + 1;
    let start = line[..end].iter().rposition(|b| b.is_ascii_whitespace()).map_or(0, |i| i + 1);
    let word = &line[start..end];
    if !(KEY_LINE_MIN..=KEY_LINE_MAX).contains(&word.len()) {
        return None;
    }
    let base64 = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'=');
    let mixed = word.iter().any(u8::is_ascii_uppercase)
        && word.iter().any(u8::is_ascii_lowercase)
        && word.iter().any(u8::is_ascii_digit);
    // `2026-01-01T00:00:00.0Z stdout F ` of the CRI log format.
    let prefix = line[..start].trim_ascii();
    let runtime = prefix.is_empty()
        || [&b"stdout F"[..], b"stderr F", b"stdout P", b"stderr P"].iter().any(|p| prefix.ends_with(p));
    (word.iter().all(base64) && mixed && runtime).then_some(start)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(line: &str) -> String {
        let mut bytes = line.as_bytes().to_vec();
        Masker::new(&[]).unwrap().mask(&mut bytes);
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn secrets_of_every_kind_are_replaced() {
        let jwt = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9P";
        for (line, want) in [
            ("login password=hunter2 ok", "login password=[masked:password] ok"),
            ("DB_PASSWORD: s3cr3t!", "DB_PASSWORD: [masked:password]"),
            (r#"{"password":"two words","n":1}"#, r#"{"password":"[masked:password]","n":1}"#),
            (r#"{\"password\":\"x y\",\"n\":1}"#, r#"{\"password\":\"[masked:password]",\"n\":1}"#),
            ("secret = 'it is'", "secret = '[masked:password]'"),
            ("GET /?api_key=abc&user=bob", "GET /?api_key=[masked:password]&user=bob"),
            ("curl --password swordfish host", "curl --password [masked:password] host"),
            ("postgres://bob:pa@ss@db:5432/x", "postgres://bob:[masked:url-password]@db:5432/x"),
            ("Authorization: Bearer abcdef.123456", "Authorization: Bearer [masked:bearer]"),
            ("authorization: Basic dXNlcjpwYXNz", "authorization: Basic [masked:basic-auth]"),
            ("key AKIAIOSFODNN7EXAMPLE used", "key [masked:aws-key] used"),
            (
                "aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
                "aws_secret_access_key = [masked:aws-secret]",
            ),
            ("push with ghp_0123456789abcdefghij0123", "push with [masked:token]"),
            ("login token=abcdef1234567890 ok", "login token=[masked:token] ok"),
            (r#"{"token":"abcdef1234567890"}"#, r#"{"token":"[masked:token]"}"#),
            (
                r"pem: -----BEGIN RSA PRIVATE KEY-----\nMIIEow...",
                r"pem: -----BEGIN RSA PRIVATE KEY-----[masked:private-key]",
            ),
            ("MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7VJTUt9Us8cKj", "[masked:private-key]"),
            (
                "2026-01-01T00:00:00.0Z stderr F MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7VJTUt9Us8cKj",
                "2026-01-01T00:00:00.0Z stderr F [masked:private-key]",
            ),
        ] {
            assert_eq!(masked(line), want);
        }
        assert_eq!(masked(&format!("session {jwt} began")), "session [masked:jwt] began");
        assert_eq!(
            masked("a password=x b password=y"),
            "a password=[masked:password] b password=[masked:password]"
        );
    }

    #[test]
    fn ordinary_lines_stay_as_they_are() {
        for line in [
            "",
            "Failed password for root from 10.0.0.1 port 22 ssh2",
            "digest sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
            "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
            "http://example.com:8080/path at 12:30:01",
            "the secretary arrived",
            "syntax error: unexpected token: endpoint",
        ] {
            assert_eq!(masked(line), line);
        }
    }

    #[test]
    fn extra_masks_take_part_and_bad_ones_are_named() {
        let extra = [("badge".to_owned(), r"badge (?<s>\d+)".to_owned())];
        let mut masker = Masker::new(&extra).unwrap();
        let mut line = b"\xff badge 12345 in\x00".to_vec();
        assert!(masker.mask(&mut line));
        assert_eq!(line, b"\xff badge [masked:badge] in\x00");
        let error = Masker::new(&[("odd".to_owned(), "(".to_owned())]).unwrap_err().to_string();
        assert!(error.contains("odd"), "{error}");
    }

    #[test]
    fn hostile_lines_take_bounded_time() {
        let mut masker = Masker::new(&[]).unwrap();
        for piece in ["password", "a://b:", "ey", "bearer ", "-----BEGIN ", "password=\"", "x@", "secret:="] {
            let mut line = piece.repeat(17_000 / piece.len()).into_bytes();
            let before = std::time::Instant::now();
            masker.mask(&mut line);
            assert!(before.elapsed().as_millis() < 500, "{piece}: {:?}", before.elapsed());
        }
    }
}
