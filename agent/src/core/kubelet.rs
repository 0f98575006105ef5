//! Says once, and in the status as long as it is so, where the kubelet would evict before a cleanup begins.

use dogwatch::record::{Body, Moment, Mount, Stream};

use super::Core;
use crate::detect::DiskConfig;
use crate::kubelet::Kubelet;

/// The kubelet of this node, and the marks that it is held against.
#[derive(Debug, Default)]
pub(super) struct Evictions {
    kubelet: Option<Kubelet>,
    marks: DiskConfig,
    /// What differs; `None` until mounts and marks were held against it.
    pub(super) differs: Option<Vec<String>>,
    /// What was said of it before.
    said: Vec<String>,
}

impl Core {
    /// Holds `marks` against what `kubelet` does, from the next sample on.
    pub fn watch_kubelet(&mut self, kubelet: Option<Kubelet>, marks: DiskConfig) {
        let said = self.evictions.differs.take().unwrap_or_else(|| std::mem::take(&mut self.evictions.said));
        self.evictions = Evictions { kubelet, marks, differs: None, said };
    }

    /// The kubelet holds to something else, or came, or went.
    pub(super) fn on_kubelet(&mut self, kubelet: Option<Kubelet>) {
        let marks = std::mem::take(&mut self.evictions.marks);
        self.watch_kubelet(kubelet, marks);
    }

    /// Other marks are in force.
    pub(super) fn on_marks(&mut self, marks: DiskConfig) {
        let kubelet = self.evictions.kubelet.take();
        self.watch_kubelet(kubelet, marks);
    }

    pub(super) fn hold_against_kubelet(&mut self, at: Moment, mounts: &[Mount]) {
        let Some(kubelet) = self.evictions.kubelet.as_ref() else { return };
        if self.evictions.differs.is_some() || mounts.is_empty() {
            return;
        }
        let differs = kubelet.differs(&self.evictions.marks, mounts);
        for sentence in differs.iter().filter(|d| !self.evictions.said.contains(d)) {
            tracing::warn!("this node cannot {sentence}");
            self.wires.recorder.push(Stream::Urgent, at, Body::Note(format!("this node cannot {sentence}")));
        }
        self.evictions.differs = Some(differs);
    }
}
