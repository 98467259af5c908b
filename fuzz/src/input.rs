//! An input taken apart: choices first, bytes where bytes are wanted. It never runs out with an
//! error, so that every input means something.

/// What is left of an input.
pub(crate) struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub(crate) fn new(data: &'a [u8]) -> Self {
        Input(data)
    }

    /// The next choice; `None` at the end.
    pub(crate) fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// The next byte, 0 at the end.
    pub(crate) fn byte(&mut self) -> u8 {
        self.next().unwrap_or(0)
    }

    /// A length of two bytes, little-endian, and so many bytes, or what is left.
    pub(crate) fn piece(&mut self) -> &'a [u8] {
        let bytes = usize::from(u16::from_le_bytes([self.byte(), self.byte()]));
        let (piece, rest) = self.0.split_at(bytes.min(self.0.len()));
        self.0 = rest;
        piece
    }

    /// Everything that is left.
    pub(crate) fn rest(self) -> &'a [u8] {
        self.0
    }
}

/// Cuts a stream: 0 leaves it whole, 1 makes single bytes of it, any other seed pieces of 1 to 64.
pub(crate) fn cut(mut stream: &[u8], seed: u8) -> Vec<&[u8]> {
    if seed == 0 {
        return vec![stream];
    }
    let (mut pieces, mut state) = (Vec::new(), u32::from(seed));
    while !stream.is_empty() {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let bytes = if seed == 1 { 1 } else { 1 + (state >> 26) as usize };
        let (piece, rest) = stream.split_at(bytes.min(stream.len()));
        pieces.push(piece);
        stream = rest;
    }
    pieces
}
