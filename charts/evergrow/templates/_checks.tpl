{{/* What the schema cannot say. */}}
{{- define "evergrow.checks" -}}
{{- include "evergrow.checkRelease" . -}}
{{- include "evergrow.checkAutoscaling" . -}}
{{- range $name, $model := .Values.models -}}
  {{- include "evergrow.checkModel" (list $name $model) -}}
{{- end -}}
{{- end }}

{{- define "evergrow.checkModel" -}}
{{- $name := first . -}}
{{- $model := last . -}}
{{- if and $model.schedules (not $model.document) -}}
  {{- fail (printf "models.%s.document: is required where there are schedules, found %d and no document" $name (len $model.schedules)) -}}
{{- end -}}
{{- with $model.document -}}
  {{- if ne .metadata.name $name -}}
    {{- fail (printf "models.%s.document.metadata.name: must be %q, found %q" $name $name .metadata.name) -}}
  {{- end -}}
{{- end -}}
{{- end }}

{{- define "evergrow.checkAutoscaling" -}}
{{- with .Values.execution.serving.autoscaling -}}
  {{- if lt (int .maxReplicas) (int .minReplicas) -}}
    {{- fail (printf "execution.serving.autoscaling.maxReplicas: must be at least minReplicas, found %v and %v" .maxReplicas .minReplicas) -}}
  {{- end -}}
{{- end -}}
{{- end }}

{{/*
A release in another namespace than its environment's can be upgraded with another environment's values, which would
delete everything of the first. The ConfigMap tells which release the environment is of. A dry run on the client cannot
look it up, nor the release's own namespace, and passes.
*/}}
{{- define "evergrow.checkRelease" -}}
{{- $namespace := .Values.execution.namespace -}}
{{- $isConnected := lookup "v1" "Namespace" "" .Release.Namespace -}}
{{- if and .Release.IsUpgrade (ne .Release.Namespace $namespace) $isConnected -}}
  {{- $installed := lookup "v1" "ConfigMap" $namespace "evergrow-environment" -}}
  {{- $annotations := dig "metadata" "annotations" (dict) $installed -}}
  {{- $owner := printf "%s/%s" (index $annotations "meta.helm.sh/release-namespace") (index $annotations "meta.helm.sh/release-name") -}}
  {{- if ne $owner (printf "%s/%s" .Release.Namespace .Release.Name) -}}
    {{- fail (printf "execution.namespace: release %q of namespace %q is of another environment than %q, and this upgrade would delete that; add `--namespace %s`" .Release.Name .Release.Namespace $namespace $namespace) -}}
  {{- end -}}
{{- end -}}
{{- end }}
