use bytes::Bytes;
use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::block::{Header, Start};
use crate::chain::{HeadStatement, ReceiptStatement, SignedHead, SignedReceipt};
use crate::record::{Action, Finding, ObjectOutcome, RecordRef, Severity, Stream};

/// Out, through bytes, and in again.
fn there_and_back<D, W>(value: &D) -> Result<D, Refused>
where
    W: Message + Default + for<'a> From<&'a D>,
    D: TryFrom<W, Error = Refused>,
{
    let encoded = W::from(value).encode_to_vec();
    D::try_from(W::decode(Bytes::from(encoded)).unwrap())
}

proptest! {
    #[test]
    fn a_record_keeps_every_value(record in strategies::record()) {
        prop_assert_eq!(there_and_back::<_, wire::Record>(&record), Ok(record.clone()));
        prop_assert_eq!(readable(&record), Ok(()));
    }

    #[test]
    fn headers_and_statements_keep_every_value(
        header in strategies::header(),
        start in strategies::start(),
        head in strategies::head_statement(),
        receipt in strategies::receipt_statement(),
        signed_head in strategies::signed_head(),
        signed_receipt in strategies::signed_receipt(),
        citation in strategies::record_ref(),
    ) {
        prop_assert_eq!(there_and_back::<Header, wire::BlockHeader>(&header), Ok(header));
        prop_assert_eq!(there_and_back::<Start, wire::Start>(&start), Ok(start));
        prop_assert_eq!(there_and_back::<HeadStatement, wire::HeadStatement>(&head), Ok(head));
        prop_assert_eq!(there_and_back::<ReceiptStatement, wire::ReceiptStatement>(&receipt), Ok(receipt));
        prop_assert_eq!(there_and_back::<SignedHead, wire::SignedHead>(&signed_head), Ok(signed_head));
        prop_assert_eq!(there_and_back::<SignedReceipt, wire::SignedReceipt>(&signed_receipt), Ok(signed_receipt));
        prop_assert_eq!(there_and_back::<RecordRef, wire::RecordRef>(&citation), Ok(citation));
    }

    /// Whatever a stolen node sends is led in or refused, never a panic.
    #[test]
    fn arbitrary_bytes_are_never_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let bytes = Bytes::from(bytes);
        let _ = wire::Record::decode(bytes.clone()).map(Record::try_from);
        let _ = wire::BlockHeader::decode(bytes.clone()).map(Header::try_from);
        let _ = wire::SignedHead::decode(bytes).map(SignedHead::try_from);
    }
}

fn finding() -> wire::Finding {
    let citation = wire::RecordRef {
        node: "node-1".to_owned(),
        incarnation: Bytes::from_static(&[1; 16]),
        stream: 1,
        seq: 7,
    };
    wire::Finding {
        severity: 3,
        state: 1,
        subject: Some(wire::Subject::default()),
        citations: vec![citation; 5],
        ..wire::Finding::default()
    }
}

fn in_record(body: wire::record::Body) -> wire::Record {
    wire::Record { seq: 1, body: Some(body), ..wire::Record::default() }
}

#[track_caller]
fn refused(body: wire::record::Body) -> String {
    Record::try_from(in_record(body)).unwrap_err().to_string()
}

#[test]
fn a_refusal_names_the_field_by_its_path() {
    let mut f = finding();
    f.citations[3].incarnation = Bytes::from_static(&[1; 15]);
    assert_eq!(refused(wire::record::Body::Finding(f)), "finding.citations[3].incarnation: must be 16 bytes");

    let mut f = finding();
    f.citations[0].node = "Not A Name".to_owned();
    assert!(refused(wire::record::Body::Finding(f)).starts_with("finding.citations[0].node: must be a DNS"));

    let sample = wire::Sample {
        self_cost: Some(wire::SelfCost::default()),
        cpu: Some(wire::Cpu {
            io_pressure: Some(wire::Pressure { full_avg60: f64::NAN, ..Default::default() }),
            ..Default::default()
        }),
        ..wire::Sample::default()
    };
    let text = refused(wire::record::Body::Sample(sample));
    assert_eq!(text, "sample.cpu.io_pressure.full_avg60: must be a finite number");
}

#[test]
fn enums_are_refused_by_name() {
    let unspecified = wire::Finding { severity: 0, ..finding() };
    assert_eq!(
        refused(wire::record::Body::Finding(unspecified)),
        "finding.severity: is unspecified, must be info, low, medium, high or critical"
    );
    let unknown = wire::Finding { state: 99, ..finding() };
    assert_eq!(
        refused(wire::record::Body::Finding(unknown)),
        "finding.state: 99 is unknown, must be raised, updated or cleared"
    );
    let gap = wire::Gap { stream: -1, ..wire::Gap::default() };
    let text = refused(wire::record::Body::Gap(gap));
    assert_eq!(text, "gap.stream: -1 is unknown, must be urgent, evidence or recorder");
    assert_eq!(object_outcome("outcome", 0), Ok(ObjectOutcome::Pending));
    assert!(object_outcome("outcome", 5).is_err());
    assert_eq!(Stream::try_from(wire::Stream::Recorder), Ok(Stream::Recorder));
    assert!(Severity::try_from(wire::Severity::Unspecified).is_err());
}

#[test]
fn what_must_be_there_is_asked_for() {
    let f = wire::Finding { subject: None, ..finding() };
    assert_eq!(refused(wire::record::Body::Finding(f)), "finding.subject: is missing");
    assert_eq!(refused(wire::record::Body::Sample(wire::Sample::default())), "sample.self_cost: is missing");
    let empty = wire::Record { seq: 1, ..wire::Record::default() };
    assert_eq!(Record::try_from(empty).unwrap_err().to_string(), "body: is missing");
    let unnumbered = wire::Record { seq: 0, ..in_record(wire::record::Body::Note(wire::Note::default())) };
    assert_eq!(Record::try_from(unnumbered).unwrap_err().path(), "seq");
}

#[test]
fn text_and_collections_are_bounded() {
    let long = "x".repeat(MAX_TEXT_BYTES + 1);
    let f = wire::Finding { summary: long.clone(), ..finding() };
    assert_eq!(
        refused(wire::record::Body::Finding(f)),
        "finding.summary: 65537 bytes are over the limit of 65536"
    );
    let longest = wire::Finding { summary: "x".repeat(MAX_TEXT_BYTES), ..finding() };
    assert!(Finding::try_from(longest).is_ok());

    let sample = wire::Sample { mounts: vec![wire::Mount::default(); MAX_MOUNTS + 1], ..Default::default() };
    assert_eq!(
        refused(wire::record::Body::Sample(sample)),
        "sample.mounts: 10001 items are over the limit of 10000"
    );
    let log = wire::LogLine { rules: vec![String::new(), long], ..Default::default() };
    assert!(refused(wire::record::Body::Log(log)).starts_with("log.rules[1]: 65537 bytes"));
    let log = wire::LogLine { line: vec![0; MAX_LINE_BYTES + 1].into(), ..Default::default() };
    assert!(refused(wire::record::Body::Log(log)).starts_with("log.line: "));

    let objects = vec![wire::PlannedObject::default(); MAX_OBJECTS + 1];
    let action = wire::Action { mode: 1, state: 1, objects, ..Default::default() };
    assert!(refused(wire::record::Body::Action(action)).starts_with("action.objects: 100001 items"));
}

#[test]
fn a_planned_path_is_absolute_and_has_no_nul() {
    let with = |path: &'static [u8]| wire::Action {
        mode: 2,
        state: 1,
        objects: vec![wire::PlannedObject { path: Bytes::from_static(path), ..Default::default() }],
        ..Default::default()
    };
    for (bad, rule) in [(&b"var/log"[..], "absolute"), (b"", "absolute"), (b"/a\0b", "NUL")] {
        let e = Action::try_from(with(bad)).unwrap_err();
        assert_eq!(e.path(), "objects[0].path");
        assert!(e.rule().contains(rule), "{e}");
    }
    let kept = Action::try_from(with(b"/\xff\xfe")).unwrap();
    assert_eq!(wire::Action::from(kept).objects[0].path, &b"/\xff\xfe"[..]);
}

#[test]
fn a_reason_without_the_figure_that_it_explains_is_refused() {
    let action =
        wire::Action { mode: 1, state: 1, unexplained_reason: "why".to_owned(), ..Default::default() };
    assert_eq!(Action::try_from(action).unwrap_err().path(), "unexplained_reason");
}

#[test]
fn a_statement_of_nothing_has_no_hash_and_one_of_something_has() {
    let good = wire::HeadStatement {
        node: "n".to_owned(),
        incarnation: Bytes::from_static(&[0; 16]),
        stream: 1,
        last_seq: 0,
        hash: Bytes::from_static(&[0; 32]),
        wall_ns: 0,
        blocks: 0,
    };
    assert!(HeadStatement::try_from(good.clone()).is_ok());
    let numbered = wire::HeadStatement { last_seq: 1, ..good.clone() };
    assert_eq!(HeadStatement::try_from(numbered).unwrap_err().path(), "last_seq");
    let short = wire::HeadStatement { hash: Bytes::from_static(&[0; 31]), ..good };
    assert_eq!(HeadStatement::try_from(short).unwrap_err().to_string(), "hash: must be 32 bytes");
}
