{{/* Data of a Secret evergrow-credentials: what a consumer's steps get as variables. `.` is a dict: root, consumer. */}}
{{- define "platform.credentials" -}}
{{- $namespace := .root.Release.Namespace -}}
{{- $key := include "platform.password" (dict "root" .root "secret" "seaweedfs" "key" .consumer) -}}
{{- $feast := include "platform.password" (dict "root" .root "secret" "postgres" "key" "feast-password") -}}
{{- $redis := include "platform.password" (dict "root" .root "secret" "redis" "key" "password") -}}
AWS_ACCESS_KEY_ID: {{ .consumer | b64enc }}
AWS_SECRET_ACCESS_KEY: {{ $key | b64enc }}
FEAST_REGISTRY_URL: {{ printf "postgresql+psycopg://feast:%s@postgres.%s:5432/feast" $feast $namespace | b64enc }}
FEAST_REDIS: {{ printf "redis.%s:6379,password=%s" $namespace $redis | b64enc }}
{{- end }}
