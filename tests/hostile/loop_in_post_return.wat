;; Answers, and then never lets go of the answer.
(func (export "cabi_post_airlock:inference/plugin@0.1.0#infer") (param i32)
  (loop $for_ever (br $for_ever)))
