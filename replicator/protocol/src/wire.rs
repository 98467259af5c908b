//! A bounds-checked cursor over a frame's payload. What it hands out shares the payload's memory.

use bytes::Bytes;
use quicksilver_format::{FormatError, NodeId};

pub(crate) struct Reader {
    what: &'static str,
    whole_bytes: usize,
    rest: Bytes,
}

impl Reader {
    pub(crate) fn new(what: &'static str, payload: &Bytes) -> Self {
        Reader { what, whole_bytes: payload.len(), rest: payload.clone() }
    }

    pub(crate) fn take(&mut self, n: usize) -> Result<Bytes, FormatError> {
        if self.rest.len() < n {
            let at = self.whole_bytes - self.rest.len();
            return Err(FormatError::Truncated {
                what: self.what,
                found_bytes: self.whole_bytes,
                expected_bytes: at.saturating_add(n),
            });
        }
        Ok(self.rest.split_to(n))
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], FormatError> {
        let mut out = [0; N];
        out.copy_from_slice(&self.take(N)?);
        Ok(out)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, FormatError> {
        Ok(self.array::<1>()?[0])
    }

    pub(crate) fn u16(&mut self) -> Result<u16, FormatError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, FormatError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// Everything that is left.
    pub(crate) fn rest(self) -> Bytes {
        self.rest
    }

    pub(crate) fn u64(&mut self) -> Result<u64, FormatError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A byte that is 0 or 1.
    pub(crate) fn flag(&mut self, field: &'static str) -> Result<bool, FormatError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(self.field(field, other, "0 or 1")),
        }
    }

    /// What [`put_text`] wrote.
    pub(crate) fn text(
        &mut self,
        field: &'static str,
        limit: usize,
    ) -> Result<String, FormatError> {
        let n = usize::from(self.u16()?);
        if n > limit {
            let (found, limit) = (n as u64, limit as u64);
            return Err(FormatError::OverLimit { what: self.what, field, found, limit });
        }
        let bytes = self.take(n)?;
        match std::str::from_utf8(&bytes) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => Err(self.field(field, "not UTF-8", "UTF-8")),
        }
    }

    pub(crate) fn node_id(&mut self) -> Result<NodeId, FormatError> {
        let text = self.text("node id", quicksilver_format::limits::NAME_MAX_BYTES)?;
        NodeId::new(text).map_err(|e| self.field("node id", e, "a node name"))
    }

    pub(crate) fn field(
        &self,
        field: &'static str,
        found: impl ToString,
        expected: impl ToString,
    ) -> FormatError {
        FormatError::Field {
            what: self.what,
            field,
            found: found.to_string(),
            expected: expected.to_string(),
        }
    }

    pub(crate) fn end(self) -> Result<(), FormatError> {
        match self.rest.len() {
            0 => Ok(()),
            extra_bytes => Err(FormatError::TrailingBytes { what: self.what, extra_bytes }),
        }
    }
}

/// Appends a length and a text, cut at a character boundary to at most `limit` bytes.
pub(crate) fn put_text(out: &mut Vec<u8>, text: &str, limit: usize) {
    let limit = limit.min(usize::from(u16::MAX));
    let mut end = text.len().min(limit);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    out.extend_from_slice(&(end as u16).to_le_bytes());
    out.extend_from_slice(&text.as_bytes()[..end]);
}
