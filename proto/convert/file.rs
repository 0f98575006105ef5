//! Files that were about to go, and pieces of their content.

use bytes::Bytes;

use super::{MAX_OBJECTS, Refused, bounded, from_owned, items, optional, path, path_bytes, text};
use crate::record::{FileContent, FileSeen, MAX_PIECE_BYTES};
use crate::wire;

/// Most bytes of a compressed piece: what does not compress grows a little.
const MAX_ZSTD_BYTES: usize = MAX_PIECE_BYTES + 4 * 1024;

impl From<&FileSeen> for wire::FileSeen {
    fn from(f: &FileSeen) -> Self {
        Self {
            cause: f.cause.clone(),
            objects: f.objects.iter().map(Into::into).collect(),
            content: f.content.as_ref().map(Into::into),
            node: String::new(),
        }
    }
}

impl TryFrom<wire::FileSeen> for FileSeen {
    type Error = Refused;
    fn try_from(f: wire::FileSeen) -> Result<Self, Refused> {
        Ok(Self {
            cause: text("cause", f.cause)?,
            objects: items("objects", f.objects, MAX_OBJECTS)?,
            content: optional("content", f.content)?,
        })
    }
}

impl From<&FileContent> for wire::FileContent {
    fn from(c: &FileContent) -> Self {
        Self {
            path: path_bytes(&c.path),
            device: c.device,
            inode: c.inode,
            offset: c.offset,
            length: c.length,
            size_bytes: c.size_bytes,
            zstd: Bytes::copy_from_slice(&c.zstd),
        }
    }
}

impl TryFrom<wire::FileContent> for FileContent {
    type Error = Refused;
    fn try_from(c: wire::FileContent) -> Result<Self, Refused> {
        bounded("zstd", c.zstd.len(), MAX_ZSTD_BYTES)?;
        if c.length > MAX_PIECE_BYTES as u64 {
            return Err(Refused::new("length", format!("{} is over {MAX_PIECE_BYTES}", c.length)));
        }
        Ok(Self {
            path: path("path", &c.path)?,
            device: c.device,
            inode: c.inode,
            offset: c.offset,
            length: c.length,
            size_bytes: c.size_bytes,
            zstd: c.zstd.into(),
        })
    }
}

from_owned! {
    FileSeen => wire::FileSeen,
    FileContent => wire::FileContent,
}
