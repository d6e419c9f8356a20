import { get } from "./common.js";
