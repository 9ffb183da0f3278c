;; No `infer`.
;; replaces: infer
