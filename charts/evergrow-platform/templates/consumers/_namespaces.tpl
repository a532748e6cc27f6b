{{/* Fails where a consumer's namespace is missing. Without a cluster at hand (`helm template`) nothing can be looked up. */}}
{{- define "platform.checkNamespaces" -}}
{{- if lookup "v1" "Namespace" "" "default" -}}
{{- range splitList " " (include "platform.clients" .) | compact -}}
{{- if not (lookup "v1" "Namespace" "" .) -}}
{{- fail (printf "namespace %s does not exist, and consumers or kubeflowNamespace name it: `kubectl create namespace %s` (or install the chart evergrow there first), or take it out of the values" . .) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end }}
