//! Answers each input as the output of the same number: `INPUT0` comes back as `OUTPUT0`.
//!
//! The signature comes from the model's configuration, so one plugin serves many models:
//! `datatype` (`FP32` if it is not set) and `shape` (`[-1,-1]` if it is not set).

use airlock_guest::prelude::*;

struct Echo {
    datatype: Datatype,
    shape: Vec<i64>,
}

impl Plugin for Echo {
    fn load(config: Config, _: Files) -> Result<Self> {
        let datatype = config.parse("datatype")?.unwrap_or(Datatype::Fp32);
        let shape = parse_shape(config.get("shape").unwrap_or("[-1,-1]"))?;
        Ok(Self { datatype, shape })
    }

    fn signature(&self) -> Signature {
        Signature::new().input("INPUT0", self.datatype, &self.shape).output(
            "OUTPUT0",
            self.datatype,
            &self.shape,
        )
    }

    fn infer(&self, mut request: Request) -> Result<Response> {
        Ok(request.take("INPUT0")?.renamed("OUTPUT0").into())
    }
}

/// Reads `[-1, 4]`.
fn parse_shape(text: &str) -> Result<Vec<i64>> {
    let inner = text.trim().strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    let inner = inner
        .ok_or_else(|| Error::failed(format_args!("the parameter 'shape' is '{text}', not like [-1,4]")))?;
    let dims = inner.split(',').filter(|dim| !dim.trim().is_empty());
    Ok(dims.map(|dim| dim.trim().parse()).collect::<Result<_, _>>()?)
}

airlock_guest::export!(Echo);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_is_read_as_metadata_writes_it() {
        assert_eq!(parse_shape("[-1, 4]"), Ok(vec![-1, 4]));
        assert_eq!(parse_shape("[]"), Ok(vec![]));
        assert!(parse_shape("4").is_err());
        assert!(parse_shape("[four]").is_err());
    }
}
