//! Looks rows of a table up: for each number in `ROW`, INT32 `[-1]`, the four numbers of that row in `VALUES`, FP32 `[-1,4]`.
//!
//! The table is the file `table.bin` beside the plugin: FP32, little-endian, row by row. It is parsed once; however large it
//! is, a request costs what the rows cost that it asks for.

use airlock_guest::prelude::*;

const COLUMNS: usize = 4;

struct Lookup {
    rows: Vec<[f32; COLUMNS]>,
}

impl Plugin for Lookup {
    fn load(_: Config, files: Files) -> Result<Self> {
        let (rows, []) = files.get("table.bin")?.as_chunks::<{ 4 * COLUMNS }>() else {
            return Err(Error::failed(format_args!("the table has not {COLUMNS} columns in its last row")));
        };
        let number =
            |row: &[u8; 4 * COLUMNS], column: usize| f32::from_le_bytes(row.as_chunks::<4>().0[column]);
        let rows = rows.iter().map(|row| std::array::from_fn(|column| number(row, column))).collect();
        Ok(Self { rows })
    }

    fn signature(&self) -> Signature {
        Signature::new().input("ROW", Datatype::Int32, &[-1]).output(
            "VALUES",
            Datatype::Fp32,
            &[-1, COLUMNS as i64],
        )
    }

    fn infer(&self, request: Request) -> Result<Response> {
        let wanted = request.input("ROW")?.as_slice::<i32>()?;
        let mut values = Vec::with_capacity(COLUMNS * wanted.len());
        for row in wanted {
            let found = usize::try_from(*row).ok().and_then(|row| self.rows.get(row));
            let found = found.ok_or_else(|| {
                Error::invalid_input(format_args!("there is no row {row}, the table has {}", self.rows.len()))
            })?;
            values.extend_from_slice(found);
        }
        Ok(Tensor::from_slice("VALUES", &[wanted.len() as u64, COLUMNS as u64], &values)?.into())
    }
}

airlock_guest::export!(Lookup);

#[cfg(test)]
mod tests {
    use super::*;

    fn lookup() -> Lookup {
        let table: Vec<u8> = (0..8u8).flat_map(|value| f32::from(value).to_le_bytes()).collect();
        Lookup::load(Config::default(), Files::from([("table.bin", table.as_slice())])).expect("a table")
    }

    fn request(rows: &[i32]) -> Request {
        let input = Tensor::from_slice("ROW", &[rows.len() as u64], rows).expect("a tensor");
        Request { id: None, parameters: vec![], inputs: vec![input], outputs: vec![] }
    }

    #[test]
    fn rows_are_found_by_their_numbers() {
        let response = lookup().infer(request(&[1, 0])).expect("an answer");
        assert_eq!(response.outputs[0].shape, [2, 4]);
        assert_eq!(response.outputs[0].as_slice::<f32>(), Ok(&[4.0, 5.0, 6.0, 7.0, 0.0, 1.0, 2.0, 3.0][..]));
        assert!(matches!(lookup().infer(request(&[2])), Err(Error::InvalidInput(_))));
        assert!(matches!(lookup().infer(request(&[-1])), Err(Error::InvalidInput(_))));
    }

    #[test]
    fn a_table_has_whole_rows() {
        let files = Files::from([("table.bin", &[0u8; 20][..])]);
        assert!(Lookup::load(Config::default(), files).is_err());
    }
}
