;; Our log, of a version that this gateway does not know.
(import "airlock:inference/log@0.2.0" "write" (func (param i32 i32 i32)))
