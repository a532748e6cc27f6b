{{/* Variables of Feast's server and UI. */}}
{{- define "platform.feast.variables" -}}
{{- include "platform.postgres.variables" (dict "root" . "use" "feast" "driver" "psycopg" "variable" "FEAST_REGISTRY_URL") }}
{{ include "platform.redis.variables" . }}
- {name: EVERGROW_ENV, value: cluster}
- {name: EVERGROW_HOME, value: /home/evergrow/state}
- {name: FEAST_USAGE, value: "False"}
- {name: OMP_NUM_THREADS, value: "1"}
- {name: HOME, value: /tmp}
{{- end }}

{{/* The part of Feast's pods that server and UI have in common. `.` is a dict: root, component. */}}
{{- define "platform.feast.volumes" -}}
- name: tmp
  emptyDir: {}
- name: state
  emptyDir: {}
{{- end }}

{{- define "platform.feast.mounts" -}}
- {name: tmp, mountPath: /tmp}
- {name: state, mountPath: /home/evergrow/state}
{{- end }}
