;; Announces the same input twice.
;; replaces: signature
(data (i32.const 1024) "\10\04\00\00\02\00\00\00\60\00\00\00\01\00\00\00")
(data (i32.const 1040) "\00\00\00\00\06\00\00\00\0b\00\00\00\20\00\00\00\01\00\00\00")
(data (i32.const 1060) "\00\00\00\00\06\00\00\00\0b\00\00\00\20\00\00\00\01\00\00\00")
(func (export "airlock:inference/plugin@0.1.0#signature") (result i32) (i32.const 1024))
