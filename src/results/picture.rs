//! Pictures for people.

use crate::mask::Mask;
use crate::volume::Volume;

/// A PNG contact sheet: three planes with the outlines in their colours and a legend.
pub fn contact_sheet(volume: &Volume, masks: &[Mask]) -> Vec<u8> {
    let _ = (volume, masks);
    Vec::new()
}
