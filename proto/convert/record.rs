//! Records, and the small kinds: log lines, gaps, notes.

use std::sync::Arc;

use bytes::Bytes;

use super::{MAX_LINE_BYTES, Refused, bounded, from_owned, incarnation, node, optional, stream, text, texts};
use crate::record::{Body, Gap, LogLine, Moment, Record, RecordRef};
use crate::wire;

impl From<&Record> for wire::Record {
    fn from(r: &Record) -> Self {
        Self { seq: r.seq, wall_ns: r.at.wall_ns, boot_ns: r.at.boot_ns, body: Some((&r.body).into()) }
    }
}

impl TryFrom<wire::Record> for Record {
    type Error = Refused;
    fn try_from(r: wire::Record) -> Result<Self, Refused> {
        if r.seq == 0 {
            return Err(Refused::new("seq", "must be 1 or more"));
        }
        let body = r.body.ok_or_else(|| Refused::missing("body"))?;
        Ok(Self { seq: r.seq, at: Moment { wall_ns: r.wall_ns, boot_ns: r.boot_ns }, body: body.try_into()? })
    }
}

impl From<&Body> for wire::record::Body {
    fn from(b: &Body) -> Self {
        match b {
            Body::Sample(s) => Self::Sample(s.as_ref().into()),
            Body::Log(l) => Self::Log(l.into()),
            Body::Finding(f) => Self::Finding(f.as_ref().into()),
            Body::Action(a) => Self::Action(a.as_ref().into()),
            Body::Gap(g) => Self::Gap(g.into()),
            Body::Note(text) => Self::Note(wire::Note { text: text.clone() }),
            Body::File(f) => Self::File(f.as_ref().into()),
        }
    }
}

impl TryFrom<wire::record::Body> for Body {
    type Error = Refused;
    fn try_from(b: wire::record::Body) -> Result<Self, Refused> {
        use wire::record::Body as W;
        Ok(match b {
            W::Sample(s) => Self::Sample(Arc::new(s.try_into().map_err(|e: Refused| e.within("sample"))?)),
            W::Log(l) => Self::Log(l.try_into().map_err(|e: Refused| e.within("log"))?),
            W::Finding(f) => Self::Finding(Box::new(f.try_into().map_err(|e: Refused| e.within("finding"))?)),
            W::Action(a) => Self::Action(Box::new(a.try_into().map_err(|e: Refused| e.within("action"))?)),
            W::Gap(g) => Self::Gap(g.try_into().map_err(|e: Refused| e.within("gap"))?),
            W::Note(n) => Self::Note(text("note.text", n.text)?),
            W::File(f) => Self::File(Box::new(f.try_into().map_err(|e: Refused| e.within("file"))?)),
        })
    }
}

impl From<&RecordRef> for wire::RecordRef {
    fn from(r: &RecordRef) -> Self {
        Self {
            node: r.node.as_str().to_owned(),
            incarnation: Bytes::copy_from_slice(&r.incarnation.0),
            stream: wire::Stream::from(r.stream).into(),
            seq: r.seq,
        }
    }
}

impl TryFrom<wire::RecordRef> for RecordRef {
    type Error = Refused;
    fn try_from(r: wire::RecordRef) -> Result<Self, Refused> {
        Ok(Self {
            node: node("node", &r.node)?,
            incarnation: incarnation("incarnation", &r.incarnation)?,
            stream: stream("stream", r.stream)?,
            seq: r.seq,
        })
    }
}

impl From<&LogLine> for wire::LogLine {
    fn from(l: &LogLine) -> Self {
        Self {
            source: l.source.clone(),
            offset: l.offset,
            inode: l.inode,
            line: Bytes::copy_from_slice(&l.line),
            truncated: l.truncated,
            rules: l.rules.clone(),
            pod: l.pod.as_ref().map(Into::into),
            output: l.output.clone(),
            parts: l.parts,
            written_wall_ns: l.written_wall_ns,
            priority: l.priority,
        }
    }
}

impl TryFrom<wire::LogLine> for LogLine {
    type Error = Refused;
    fn try_from(l: wire::LogLine) -> Result<Self, Refused> {
        bounded("line", l.line.len(), MAX_LINE_BYTES)?;
        Ok(Self {
            source: text("source", l.source)?,
            offset: l.offset,
            inode: l.inode,
            line: l.line.into(),
            truncated: l.truncated,
            rules: texts("rules", l.rules)?,
            pod: optional("pod", l.pod)?,
            output: text("output", l.output)?,
            parts: l.parts,
            written_wall_ns: l.written_wall_ns,
            priority: l.priority,
        })
    }
}

impl From<&Gap> for wire::Gap {
    fn from(g: &Gap) -> Self {
        Self {
            stream: wire::Stream::from(g.stream).into(),
            source: g.source.clone(),
            after_seq: g.after_seq,
            before_seq: g.before_seq,
            count: g.count,
            from_wall_ns: g.from_wall_ns,
            to_wall_ns: g.to_wall_ns,
            reason: g.reason.clone(),
            incarnation: g.incarnation.map(|i| Bytes::copy_from_slice(&i.0)).unwrap_or_default(),
        }
    }
}

impl TryFrom<wire::Gap> for Gap {
    type Error = Refused;
    fn try_from(g: wire::Gap) -> Result<Self, Refused> {
        Ok(Self {
            stream: stream("stream", g.stream)?,
            source: text("source", g.source)?,
            after_seq: g.after_seq,
            before_seq: g.before_seq,
            count: g.count,
            from_wall_ns: g.from_wall_ns,
            to_wall_ns: g.to_wall_ns,
            reason: text("reason", g.reason)?,
            incarnation: match &g.incarnation[..] {
                [] => None,
                id => Some(incarnation("incarnation", id)?),
            },
        })
    }
}

from_owned! {
    Record => wire::Record,
    Body => wire::record::Body,
    RecordRef => wire::RecordRef,
    LogLine => wire::LogLine,
    Gap => wire::Gap,
}
