// Helm, which renders and installs the chart in tests; `building.py` builds it.
module peers

go 1.26

require helm.sh/helm/v3 v3.22.0
