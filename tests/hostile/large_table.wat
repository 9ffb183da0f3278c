;; Begins with more table elements than a request may use.
(table 30000 funcref)
