// kustomize, which builds the base in tests; `building.py` builds it. Later versions need Go 1.27.
module peers

go 1.26

require sigs.k8s.io/kustomize/kustomize/v5 v5.8.1
