//! The part of Python's pickle format (protocol 2) that describes a state dictionary. Nothing is executed: the few globals a
//! state dictionary needs are known by name and every other one is refused.

use crate::inference::pth::PthError;
use crate::inference::pth::zip::Bytes;

/// A node's place in [`Pickle::nodes`].
pub(crate) type Id = usize;

/// What a pickle describes. Nodes refer to each other by place, so shared and circular references cost nothing.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Node {
    None,
    Bool(bool),
    Int(i64),
    Text(String),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Global(Global),
    /// A persistent id: the tuple that names a storage.
    Storage(Id),
    /// `torch._utils._rebuild_tensor_v2` applied to this argument tuple.
    Tensor(Id),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Global {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    Storage(Dtype),
}

/// Element type of a storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dtype {
    F64,
    F32,
    F16,
    Bf16,
    /// Counters and masks, by their size; known so that they can be passed over.
    Other(usize),
}

impl Dtype {
    pub fn size(self) -> usize {
        match self {
            Self::F64 => 8,
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::Other(size) => size,
        }
    }
}

fn global(module: &str, name: &str) -> Option<Global> {
    let storage = |dtype| Some(Global::Storage(dtype));
    match (module, name) {
        ("collections", "OrderedDict") => Some(Global::OrderedDict),
        ("torch._utils", "_rebuild_tensor_v2") => Some(Global::RebuildTensor),
        ("torch._utils", "_rebuild_parameter") => Some(Global::RebuildParameter),
        ("torch", "DoubleStorage") => storage(Dtype::F64),
        ("torch", "FloatStorage") => storage(Dtype::F32),
        ("torch", "HalfStorage") => storage(Dtype::F16),
        ("torch", "BFloat16Storage") => storage(Dtype::Bf16),
        ("torch", "LongStorage") => storage(Dtype::Other(8)),
        ("torch", "IntStorage") => storage(Dtype::Other(4)),
        ("torch", "ShortStorage") => storage(Dtype::Other(2)),
        ("torch", "CharStorage" | "ByteStorage" | "BoolStorage") => storage(Dtype::Other(1)),
        _ => None,
    }
}

/// An interpreted pickle.
#[derive(Debug)]
pub(crate) struct Pickle {
    pub nodes: Vec<Node>,
    pub root: Id,
}

impl Pickle {
    pub fn node(&self, id: Id) -> &Node {
        self.nodes.get(id).unwrap_or(&Node::None)
    }
    pub fn text(&self, id: Id) -> Option<&str> {
        match self.node(id) {
            Node::Text(text) => Some(text),
            _ => None,
        }
    }
    pub fn int(&self, id: Id) -> Option<usize> {
        match self.node(id) {
            Node::Int(v) => usize::try_from(*v).ok(),
            _ => None,
        }
    }
    pub fn ints(&self, id: Id) -> Option<Vec<usize>> {
        self.tuple(id)?.iter().map(|v| self.int(*v)).collect()
    }
    pub fn tuple(&self, id: Id) -> Option<&[Id]> {
        match self.node(id) {
            Node::Tuple(items) | Node::List(items) => Some(items),
            _ => None,
        }
    }
    /// The value under a text key of a dictionary.
    pub fn get(&self, dict: Id, key: &str) -> Option<Id> {
        match self.node(dict) {
            Node::Dict(items) => items
                .iter()
                .rev()
                .find(|(k, _)| self.text(*k) == Some(key))
                .map(|(_, v)| *v),
            _ => None,
        }
    }
}

enum Slot {
    Node(Id),
    Mark,
}

struct Machine<'a> {
    bytes: Bytes<'a>,
    at: usize,
    nodes: Vec<Node>,
    stack: Vec<Slot>,
    memo: std::collections::HashMap<u32, Id>,
}

/// Interprets a pickle. Work and memory are linear in its length: every opcode makes at most one node.
pub(crate) fn read(bytes: &[u8]) -> Result<Pickle, PthError> {
    let mut machine = Machine {
        bytes: Bytes(bytes),
        at: 0,
        nodes: Vec::new(),
        stack: Vec::new(),
        memo: Default::default(),
    };
    loop {
        let at = machine.at;
        let opcode = machine.bytes.u8(at)?;
        machine.at += 1;
        if opcode == b'.' {
            let root = machine.pop()?;
            return Ok(Pickle {
                nodes: machine.nodes,
                root,
            });
        }
        machine
            .step(opcode)
            .map_err(|e| PthError(format!("opcode {opcode:#04x} at byte {at} of data.pkl: {}", e.0)))?;
    }
}

impl<'a> Machine<'a> {
    fn step(&mut self, opcode: u8) -> Result<(), PthError> {
        match opcode {
            0x80 => {
                let version = self.take(1)?[0];
                if !(2..=3).contains(&version) {
                    return Err(PthError(format!("pickle protocol {version}; 2 and 3 are read")));
                }
            }
            b'(' => self.stack.push(Slot::Mark),
            b'0' => drop(self.pop()?),
            b'N' => self.push(Node::None),
            0x88 => self.push(Node::Bool(true)),
            0x89 => self.push(Node::Bool(false)),
            b'J' | b'K' | b'M' | 0x8a => self.integer(opcode)?,
            // A float carries nothing we use; it holds its place.
            b'G' => {
                self.take(8)?;
                self.push(Node::None);
            }
            b'X' => {
                let len = self.take_u32()? as usize;
                let text = std::str::from_utf8(self.take(len)?)
                    .map_err(|e| PthError(e.to_string()))?
                    .to_owned();
                self.push(Node::Text(text));
            }
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                let known =
                    global(module, name).ok_or_else(|| PthError(format!("global {module}.{name} is refused")))?;
                self.push(Node::Global(known));
            }
            b')' => self.push(Node::Tuple(Vec::new())),
            b']' => self.push(Node::List(Vec::new())),
            b'}' => self.push(Node::Dict(Vec::new())),
            b't' | 0x85..=0x87 => self.tuple(opcode)?,
            b'a' | b'e' | b's' | b'u' => self.extend(opcode)?,
            b'Q' => {
                let id = self.pop()?;
                self.push(Node::Storage(id));
            }
            b'R' => self.reduce()?,
            // State of an OrderedDict (its `_metadata`): of no use here.
            b'b' => drop(self.pop()?),
            b'q' | b'r' | b'h' | b'j' => self.memoise(opcode)?,
            _ => return Err(PthError("not part of a state dictionary".into())),
        }
        Ok(())
    }

    fn push(&mut self, node: Node) {
        self.stack.push(Slot::Node(self.nodes.len()));
        self.nodes.push(node);
    }

    fn pop(&mut self) -> Result<Id, PthError> {
        match self.stack.pop() {
            Some(Slot::Node(id)) => Ok(id),
            _ => Err(PthError("the stack is empty".into())),
        }
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Id>, PthError> {
        let mark = self.stack.iter().rposition(|slot| matches!(slot, Slot::Mark));
        let items = self
            .stack
            .split_off(mark.ok_or_else(|| PthError("there is no mark".into()))?);
        Ok(items
            .iter()
            .filter_map(|slot| if let Slot::Node(id) = slot { Some(*id) } else { None })
            .collect())
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], PthError> {
        let slice = self.bytes.slice(self.at, len)?;
        self.at += len;
        Ok(slice)
    }

    fn take_u32(&mut self) -> Result<u32, PthError> {
        let v = self.bytes.u32(self.at)?;
        self.at += 4;
        Ok(v)
    }

    fn line(&mut self) -> Result<&'a str, PthError> {
        let rest = self.bytes.0.get(self.at..).unwrap_or_default();
        let len = rest
            .iter()
            .take(256)
            .position(|b| *b == b'\n')
            .ok_or_else(|| PthError("a name without end".into()))?;
        let line = std::str::from_utf8(self.take(len)?).map_err(|e| PthError(e.to_string()))?;
        self.at += 1;
        Ok(line)
    }

    fn integer(&mut self, opcode: u8) -> Result<(), PthError> {
        let len = match opcode {
            b'J' => 4,
            b'M' => 2,
            b'K' => 1,
            _ => usize::from(self.take(1)?[0]),
        };
        if len > 8 {
            return Err(PthError(format!("an integer of {len} bytes")));
        }
        let raw = self.take(len)?;
        // J and LONG1 are signed, K and M are not.
        let negative = matches!(opcode, b'J' | 0x8a) && raw.last().is_some_and(|b| b & 0x80 != 0);
        let mut wide = [if negative { 0xff } else { 0 }; 8];
        wide[..len].copy_from_slice(raw);
        self.push(Node::Int(i64::from_le_bytes(wide)));
        Ok(())
    }

    fn tuple(&mut self, opcode: u8) -> Result<(), PthError> {
        let items = if opcode == b't' {
            self.pop_to_mark()?
        } else {
            let mut items = (0..=opcode - 0x85).map(|_| self.pop()).collect::<Result<Vec<_>, _>>()?;
            items.reverse();
            items
        };
        self.push(Node::Tuple(items));
        Ok(())
    }

    /// Adds to the list or dictionary below on the stack.
    fn extend(&mut self, opcode: u8) -> Result<(), PthError> {
        let items = match opcode {
            b'a' => vec![self.pop()?],
            b's' => {
                let value = self.pop()?;
                vec![self.pop()?, value]
            }
            _ => self.pop_to_mark()?,
        };
        let Some(Slot::Node(target)) = self.stack.last() else {
            return Err(PthError("there is nothing to add to".into()));
        };
        match (opcode, &mut self.nodes[*target]) {
            (b'a' | b'e', Node::List(list)) => list.extend(items),
            (b's' | b'u', Node::Dict(dict)) if items.len() % 2 == 0 => {
                dict.extend(items.chunks_exact(2).map(|kv| (kv[0], kv[1])));
            }
            _ => return Err(PthError("it adds to something else than a list or dictionary".into())),
        }
        Ok(())
    }

    /// The three calls a state dictionary needs, by what they mean.
    fn reduce(&mut self) -> Result<(), PthError> {
        let (argument, callee) = (self.pop()?, self.pop()?);
        let node = match (&self.nodes[callee], &self.nodes[argument]) {
            (Node::Global(Global::OrderedDict), _) => Node::Dict(Vec::new()),
            (Node::Global(Global::RebuildTensor), Node::Tuple(_)) => Node::Tensor(argument),
            (Node::Global(Global::RebuildParameter), Node::Tuple(items)) => {
                match items.first().map(|id| &self.nodes[*id]) {
                    Some(tensor @ Node::Tensor(_)) => tensor.clone(),
                    _ => return Err(PthError("a parameter without a tensor".into())),
                }
            }
            _ => return Err(PthError("a call of something else than a tensor".into())),
        };
        self.push(node);
        Ok(())
    }

    fn memoise(&mut self, opcode: u8) -> Result<(), PthError> {
        let wide = matches!(opcode, b'r' | b'j');
        let key = if wide {
            self.take_u32()?
        } else {
            self.take(1)?[0].into()
        };
        if matches!(opcode, b'q' | b'r') {
            let Some(Slot::Node(id)) = self.stack.last() else {
                return Err(PthError("there is nothing to remember".into()));
            };
            self.memo.insert(key, *id);
        } else {
            let id = *self
                .memo
                .get(&key)
                .ok_or_else(|| PthError(format!("nothing was remembered as {key}")))?;
            self.stack.push(Slot::Node(id));
        }
        Ok(())
    }
}
