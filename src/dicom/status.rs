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

    /// Pending: matches are continuing, all optional keys are supported (PS3.4 table C.4-1); also a sub-operation done (C.4-2, C.4-3).
    pub const PENDING: Self = Self(0xFF00);
    /// Pending: some optional keys are not supported (PS3.4 table C.4-1).
    pub const PENDING_KEYS_IGNORED: Self = Self(0xFF01);
    /// Cancelled by the requestor (PS3.4 tables C.4-1 to C.4-3).
    pub const CANCELLED: Self = Self(0xFE00);
    /// Refused: unable to calculate the number of matches (PS3.4 tables C.4-2 and C.4-3).
    pub const CANNOT_COUNT: Self = Self(0xA701);
    /// Refused: unable to perform sub-operations (PS3.4 tables C.4-2 and C.4-3).
    pub const CANNOT_PERFORM: Self = Self(0xA702);
    /// Refused: move destination unknown (PS3.4 table C.4-2).
    pub const DESTINATION_UNKNOWN: Self = Self(0xA801);
    /// Warning: sub-operations complete, one or more failed (PS3.4 tables C.4-2 and C.4-3).
    pub const SOME_FAILED: Self = Self(0xB000);
    /// Processing failure, PS3.7 C.5.20; in a storage commitment a failure reason (PS3.3 C.14).
    pub const PROCESSING_FAILURE: Self = Self(0x0110);
    /// No such object instance, PS3.7 C.5.16.
    pub const NO_SUCH_INSTANCE: Self = Self(0x0112);
    /// No such event type, PS3.7 C.5.15.
    pub const NO_SUCH_EVENT_TYPE: Self = Self(0x0113);
    /// Invalid argument value, PS3.7 C.5.12.
    pub const INVALID_ARGUMENT: Self = Self(0x0115);
    /// Class and instance do not belong together, PS3.7 C.5.7.
    pub const CLASS_INSTANCE_CONFLICT: Self = Self(0x0119);
    /// No such action type, PS3.7 C.5.13.
    pub const NO_SUCH_ACTION: Self = Self(0x0123);

    /// More responses follow.
    pub fn is_pending(self) -> bool {
        self.0 >> 8 == 0xFF
    }

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
