//! The DIMSE status codes we return, each with its clause.

/// A status as sent in (0000,0900).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Status(pub u16);

impl Status {
    /// PS3.7 C.1.1.
    pub const SUCCESS: Self = Self(0x0000);
    /// Duplicate SOP instance, PS3.7 C.5.5. A receiver that answers this has the object.
    pub const DUPLICATE_SOP_INSTANCE: Self = Self(0x0111);
    /// SOP class not supported, PS3.7 C.5.23.
    pub const SOP_CLASS_NOT_SUPPORTED: Self = Self(0x0122);
    /// Not authorised, PS3.7 C.5.22.
    pub const NOT_AUTHORIZED: Self = Self(0x0124);
    /// Unrecognised operation, PS3.7 C.5.29.
    pub const UNRECOGNIZED_OPERATION: Self = Self(0x0211);
    /// Refused, out of resources: PS3.4 table B.2-1.
    pub const OUT_OF_RESOURCES: Self = Self(0xA700);
    /// Error, data set does not match SOP class: PS3.4 table B.2-1.
    pub const DATA_SET_MISMATCH: Self = Self(0xA900);
    /// Error, cannot understand: PS3.4 table B.2-1.
    pub const CANNOT_UNDERSTAND: Self = Self(0xC000);

    /// Success or one of the storage warnings B000, B006, B007 (PS3.4 table B.2-1): the object was taken.
    pub fn is_stored(self) -> bool {
        matches!(self.0, 0x0000 | 0xB000 | 0xB006 | 0xB007) || self == Self::DUPLICATE_SOP_INSTANCE
    }

    /// Refused for what the receiver can not do with it now: out of resources (A7xx), or processing failure (0110). The object
    /// itself is not at fault.
    pub fn is_passing(self) -> bool {
        self.0 >> 8 == 0xA7 || self.0 == 0x0110
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:04X}H", self.0)
    }
}
