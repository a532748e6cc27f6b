{{/* Variables of Feast's server and UI. */}}
{{- define "platform.feast.variables" -}}
{{- include "platform.postgres.variables" (dict "root" . "use" "feast" "variable" "FEAST_REGISTRY_URL") }}
{{ include "platform.redis.variables" . }}
- {name: OMP_NUM_THREADS, value: "1"}
- {name: HOME, value: /tmp}
{{- end }}
