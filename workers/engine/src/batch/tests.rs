use model_store::DataType;
use proptest::prelude::*;

use super::*;

fn spec(batch_axis: Option<usize>) -> TensorSpec {
    TensorSpec {
        name: "x".to_owned(),
        datatype: DataType::Uint16,
        shape: vec![],
        batch_axis,
    }
}

fn tensor(shape: &[i64], seed: u16) -> Tensor {
    let elements = shape.iter().product::<i64>() as u16;
    Tensor {
        name: "x".to_owned(),
        datatype: DataType::Uint16,
        shape: shape.to_vec(),
        data: (0..elements)
            .flat_map(|at| (seed + at).to_le_bytes())
            .collect::<Vec<_>>()
            .into(),
    }
}

fn strings(texts: &[&str], shape: &[i64]) -> Tensor {
    let data = texts
        .iter()
        .flat_map(|text| [&(text.len() as u32).to_le_bytes(), text.as_bytes()].concat());
    Tensor {
        name: "x".to_owned(),
        datatype: DataType::Bytes,
        shape: shape.to_vec(),
        data: data.collect::<Vec<_>>().into(),
    }
}

#[test]
fn a_single_entry_shares_its_bytes() {
    let only = [tensor(&[1, 4], 0)];
    let joined = gather(&[spec(Some(0))], &[&only]).unwrap();
    assert_eq!(joined[0].data.as_ptr(), only[0].data.as_ptr());
}

#[test]
fn rows_are_interleaved_along_an_inner_axis() {
    let (a, b) = ([tensor(&[2, 1, 1], 10)], [tensor(&[2, 2, 1], 20)]);
    let joined = gather(&[spec(Some(1))], &[&a, &b]).unwrap();
    assert_eq!(joined[0].shape, [2, 3, 1]);
    let elements: Vec<u16> = joined[0]
        .data
        .chunks(2)
        .map(|bytes| u16::from_le_bytes([bytes[0], bytes[1]]))
        .collect();
    assert_eq!(elements, [10, 20, 21, 11, 22, 23]);
}

#[test]
fn inputs_that_cannot_be_joined_are_refused() {
    let refused = |spec: TensorSpec, a: Tensor, b: Tensor| gather(&[spec], &[&[a], &[b]]).is_err();
    assert!(refused(
        spec(Some(0)),
        tensor(&[1, 4], 0),
        tensor(&[1, 5], 0)
    ));
    assert!(refused(spec(None), tensor(&[1], 0), tensor(&[1], 1)));
    assert!(refused(spec(Some(3)), tensor(&[1], 0), tensor(&[1], 0)));
    assert!(!refused(spec(None), tensor(&[1], 1), tensor(&[1], 1)));
    assert!(gather(&[spec(Some(0))], &[]).is_err());
    assert!(gather(&[spec(Some(0))], &[&[], &[]]).is_err());
}

#[test]
fn an_output_of_the_wrong_length_is_refused() {
    assert!(scatter(&[spec(Some(0))], &[tensor(&[3, 2], 0)], &[1, 1]).is_err());
    assert!(scatter(&[spec(Some(2))], &[tensor(&[2, 2], 0)], &[1, 1]).is_err());
}

#[test]
fn strings_are_joined_and_cut_by_element() {
    let (a, b) = (
        [strings(&["a", "bc"], &[1, 2])],
        [strings(&["", "def", "g", "h"], &[2, 2])],
    );
    let specs = [spec(Some(0))];
    let joined = gather(&specs, &[&a, &b]).unwrap();
    assert_eq!(scatter(&specs, &joined, &[1, 2]).unwrap(), [a, b]);
}

proptest! {
    #[test]
    fn what_is_gathered_scatters_back(
        outer in 1_i64..4,
        inner in 1_i64..4,
        items in prop::collection::vec(1_u32..4, 1..5),
        axis in 0_usize..2,
    ) {
        let specs = [spec(Some(axis))];
        let entries: Vec<Vec<Tensor>> = items
            .iter()
            .enumerate()
            .map(|(index, &items)| {
                let shape = if axis == 0 { vec![i64::from(items), inner] } else { vec![outer, i64::from(items), inner] };
                vec![tensor(&shape, 1000 * index as u16)]
            })
            .collect();
        let views: Vec<&[Tensor]> = entries.iter().map(Vec::as_slice).collect();
        let joined = gather(&specs, &views).unwrap();
        prop_assert_eq!(scatter(&specs, &joined, &items).unwrap(), entries);
    }
}
