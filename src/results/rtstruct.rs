use super::*;
pub fn write(_: &Source<'_>) -> Result<ResultObject, ResultError> {
    todo!()
}
