{{/* Labels of every object. */}}
{{- define "evergrow.labels" -}}
{{ include "evergrow.podLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: evergrow
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{/* Labels of pods: those that stay the same from one version of the chart to the next. */}}
{{- define "evergrow.podLabels" -}}
app.kubernetes.io/name: evergrow
app.kubernetes.io/instance: {{ .Release.Name }}
evergrow.dev/environment: {{ .Values.name }}
{{- end }}

{{/* Where the pods of steps are. */}}
{{- define "evergrow.stepsNamespace" -}}
{{- $pipelines := .Values.execution.pipelines -}}
{{- eq $pipelines.runner "kubeflow" | ternary $pipelines.kubeflow.namespace .Values.execution.namespace -}}
{{- end }}

{{/*
What an object is called in the namespace of the steps: environments may share Kubeflow's, so there its name ends in
theirs. As EnvironmentSpec.beside_steps has it. Takes a list: the root and the name.
*/}}
{{- define "evergrow.besideSteps" -}}
{{- $root := first . -}}
{{- $name := last . -}}
{{- $isShared := ne (include "evergrow.stepsNamespace" $root) $root.Values.execution.namespace -}}
{{- $isShared | ternary (printf "%s-%s" $name $root.Values.name) $name -}}
{{- end }}

{{/* The secrets that nodes pull images with, of a service account. */}}
{{- define "evergrow.pullSecrets" -}}
{{- with .Values.code.images.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{/* Resources of a container. Takes a part `Resources` of the values. */}}
{{- define "evergrow.resources" -}}
requests: {cpu: {{ .cpu | quote }}, memory: {{ .memory | quote }}}
limits: {cpu: {{ .cpuLimit | quote }}, memory: {{ .memoryLimit | quote }}}
{{- end }}

{{/* What a container may do, as the Pod Security Standard "restricted" wants it. */}}
{{- define "evergrow.containerSecurity" -}}
runAsNonRoot: true
runAsUser: 1000
runAsGroup: 1000
readOnlyRootFilesystem: true
allowPrivilegeEscalation: false
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- end }}
